/** Return whether two values of JSON are equal, except for these keys of the outermost object. */
export function isSame(one: unknown, other: unknown, except: readonly string[] = []): boolean {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  const keys = Object.keys(one);
  if (keys.length !== Object.keys(other).length) return false;
  return keys.every((key) => except.includes(key) || (key in other && isSame(one[key as never], other[key as never])));
}
