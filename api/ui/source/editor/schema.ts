/** Search in the JSON Schema of playbooks: what may stand at a place. */

import type { Schema } from "./answers";
import type { Place } from "./place";

/** Return the parts of the schema that describe what the path of a place leads to. */
function partsAt(root: Schema, { path, actions }: Place): Schema[] {
  let parts = expand(root, [root], null);
  path.forEach((key, depth) => {
    const next = parts.flatMap((part) => {
      if (key === "-") return part.items ? [part.items] : [];
      const named = part.properties?.[key];
      if (named) return [named];
      return typeof part.additionalProperties === "object" ? [part.additionalProperties] : [];
    });
    parts = expand(root, next, actions.get(depth + 1) ?? null);
  });
  return parts;
}

/** Replace references and alternatives by what they stand for. With an action type, only its keys count. */
function expand(root: Schema, parts: readonly Schema[], action: string | null): Schema[] {
  const expanded: Schema[] = [];
  const visit = (part: Schema) => {
    if (expanded.includes(part)) return;
    if (part.$ref) {
      const target = root.$defs?.[part.$ref.replace("#/$defs/", "")];
      if (target) visit(target);
      return;
    }
    expanded.push(part);
    for (const inner of [...(part.anyOf ?? []), ...(part.oneOf ?? [])]) visit(inner);
    for (const { if: condition, then } of part.allOf ?? []) {
      const type = condition?.properties?.["action"]?.const;
      if (then && action !== null && type === action) visit(then);
    }
  };
  parts.forEach(visit);
  return expanded;
}

/** Return the parts that may describe a mapping. Triggers have a type, which decides about the other keys. */
function ofType(parts: Schema[], place: Place): Schema[] {
  const written = place.siblings.get("type")?.replace(/\s+#.*/, "").replace(/^(["'])(.*)\1$/, "$2");
  const typeOf = (part: Schema) => part.properties?.["type"]?.const;
  const isKnown = written !== undefined && parts.some((part) => typeOf(part) === written);
  return isKnown ? parts.filter((part) => [undefined, written].includes(typeOf(part) as string | undefined)) : parts;
}

export interface KnownKey {
  key: string;
  description: string;
  isRequired: boolean;
}

/** Return the keys that the mapping of a place may have besides those that it has. */
export function keysAt(root: Schema, place: Place): KnownKey[] {
  const known = new Map<string, KnownKey>();
  for (const part of ofType(partsAt(root, place), place)) {
    for (const [key, { description = "" }] of Object.entries(part.properties ?? {})) {
      if (place.siblings.has(key) || known.get(key)?.description) continue;
      known.set(key, { key, description, isRequired: part.required?.includes(key) ?? false });
    }
  }
  return [...known.values()];
}

/** Return the values that a place may have, if they are few. */
export function valuesAt(root: Schema, place: Place): string[] {
  const path = place.key === null ? place.path : [...place.path, place.key];
  const values = new Set<string>();
  for (const part of valueParts(root, place, path)) {
    for (const value of [...(part.enum ?? []), ...("const" in part ? [part.const] : [])]) values.add(String(value));
    if (part.type === "boolean") for (const value of ["true", "false"]) values.add(value);
  }
  return [...values];
}

function valueParts(root: Schema, place: Place, path: string[]): Schema[] {
  if (place.key === null) return partsAt(root, place);
  const owners = ofType(partsAt(root, place), place);
  const found = owners.flatMap((part) => {
    const named = part.properties?.[path[path.length - 1] as string];
    return named ? [named] : typeof part.additionalProperties === "object" ? [part.additionalProperties] : [];
  });
  return expand(root, found, null);
}

/** Return what an action type does. */
export function describeAction(root: Schema, type: string): string {
  const conditions = root.$defs?.["ActionEntry"]?.allOf ?? [];
  return conditions.find((part) => part.if?.properties?.["action"]?.const === type)?.then?.description ?? "";
}
