/** Return whether two values of JSON are equal, except for these keys of the outermost object. */
export function isSame(one: unknown, other: unknown, except: readonly string[] = NONE): boolean {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  if (Array.isArray(one)) return Array.isArray(other) && one.length === other.length && one.every((item, index) => isSame(item, other[index]));
  const [first, second] = [one as Record<string, unknown>, other as Record<string, unknown>];
  let surplus = 0;
  for (const key in second) if (second[key] !== undefined) surplus--;
  for (const key in first) {
    if (first[key] === undefined) continue;
    surplus++;
    if (!isSame(first[key], second[key]) && !except.includes(key)) return false;
  }
  return surplus === 0;
}

const NONE: readonly string[] = [];
