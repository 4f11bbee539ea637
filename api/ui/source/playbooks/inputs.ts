/** The texts of a start form, and the input of a run that they mean. */

import type { DeclaredInput } from "./answers";
import { isKeptNumber, parseJson } from "./exact";

export type Texts = Record<string, string>;

/** Return the type of an input in words. */
export function typeWords({ type, required }: DeclaredInput): string {
  return `${type === "any" ? "any value" : type}, ${required ? "required" : "optional"}`;
}

/** How a field is edited. What is read as JSON is a number, a list, an object or any value. */
export function editorOf({ type, enum: choices }: DeclaredInput): "choice" | "text" | "number" | "json" {
  if (choices || type === "boolean") return "choice";
  if (type === "string") return "text";
  return type === "integer" || type === "number" ? "number" : "json";
}

/** Return the values from which a person chooses. */
export function choicesOf({ type, enum: choices }: DeclaredInput): unknown[] {
  return choices ?? (type === "boolean" ? [true, false] : []);
}

/** Return the text of a field for a value: that of an earlier run, for example. */
export function textOf(field: DeclaredInput, value: unknown): string {
  const editor = editorOf(field);
  if (editor === "text" && typeof value === "string") return value;
  const isFlat = value === null || typeof value !== "object" || isKeptNumber(value);
  return JSON.stringify(value, null, editor === "json" && !isFlat ? 2 : undefined);
}

/** Return the input of a run, and the fields whose text is no JSON. An empty field has no value. */
export function readTexts(fields: Record<string, DeclaredInput>, texts: Texts): { input: Record<string, unknown>; errors: Texts } {
  const input: Record<string, unknown> = {};
  const errors: Texts = {};
  for (const [name, field] of Object.entries(fields)) {
    const text = texts[name] ?? "";
    const editor = editorOf(field);
    if (!text.trim() && (editor !== "text" || !text)) continue;
    if (editor === "text") set(input, name, text);
    else {
      try {
        set(input, name, parseJson(text));
      } catch (error) {
        // The service names the type that a number must have.
        if (editor === "number") set(input, name, text);
        else errors[name] = `This is not JSON (${(error as Error).message}). A text stands in quotes.`;
      }
    }
  }
  return { input, errors };
}

/** Set a member, also one that is named `__proto__`. */
function set(object: Record<string, unknown>, name: string, value: unknown): void {
  Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}
