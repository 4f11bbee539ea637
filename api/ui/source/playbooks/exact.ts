/** JSON whose numbers keep all their digits, where the browser can (ECMAScript 2026: `JSON.rawJSON`). */

interface ExactJson {
  rawJSON?: (text: string) => unknown;
  isRawJSON?: (value: unknown) => boolean;
}

const exact = JSON as ExactJson;

type Reviver = (key: string, value: unknown, context?: { source?: string }) => unknown;

const keepDigits: Reviver = (_key, value, context) => {
  const source = context?.source;
  if (typeof value !== "number" || source === undefined || !exact.rawJSON) return value;
  return String(value) === source ? value : exact.rawJSON(source);
};

/** Return the value of a JSON text. Numbers that would lose digits are kept as they are written. */
export function parseJson(text: string): unknown {
  return JSON.parse(text, keepDigits as Parameters<typeof JSON.parse>[1]);
}

/** Return whether a value is a number that `parseJson` has kept as text. */
export function isKeptNumber(value: unknown): boolean {
  return exact.isRawJSON?.(value) ?? false;
}
