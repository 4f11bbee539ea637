/** What differs between two attempts: input, error and duration, as lines of text. */

import type { AttemptReport } from "../answers";
import { duration } from "../format";

const MAX_LINES = 400;

export interface DiffLine {
  mark: " " | "+" | "-";
  text: string;
}

/** Return the lines that differ between two texts, with up to `around` common lines next to them (Hunt and McIlroy 1976). */
export function diffLines(before: readonly string[], after: readonly string[], around = 1): DiffLine[] {
  const [old, fresh] = [before.slice(0, MAX_LINES), after.slice(0, MAX_LINES)];
  const lengths = Array.from({ length: old.length + 1 }, () => new Uint16Array(fresh.length + 1));
  const at = (i: number, j: number) => lengths[i]?.[j] ?? 0;
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = fresh.length - 1; j >= 0; j -= 1) {
      (lengths[i] as Uint16Array)[j] = old[i] === fresh[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const lines: DiffLine[] = [];
  let [i, j] = [0, 0];
  while (i < old.length || j < fresh.length) {
    if (i < old.length && j < fresh.length && old[i] === fresh[j]) {
      lines.push({ mark: " ", text: old[i] as string });
      i += 1;
      j += 1;
    } else if (i < old.length && (j >= fresh.length || at(i + 1, j) >= at(i, j + 1))) lines.push({ mark: "-", text: old[i++] as string });
    else lines.push({ mark: "+", text: fresh[j++] as string });
  }
  const isNear = (place: number) => lines.slice(Math.max(place - around, 0), place + around + 1).some(({ mark }) => mark !== " ");
  return lines.filter((_, place) => isNear(place));
}

export interface AttemptDiff {
  title: string;
  lines: DiffLine[];
}

/** Return what differs between two attempts. A part without differences is left out. `results` are those of the two. */
export function diffAttempts(before: AttemptReport, after: AttemptReport, results: [unknown, unknown]): AttemptDiff[] {
  const parts: [string, (attempt: AttemptReport, index: 0 | 1) => string[]][] = [
    ["Input", (attempt) => attempt.actions.flatMap((action) => [`${action.action}:`, ...textOf(action.input).map((line) => `  ${line}`)])],
    ["Result", (_, index) => (results[index] === undefined ? [] : textOf(results[index]))],
    ["Error", ({ error }) => (error ? [`${error.type}: ${error.message}`, ...(error.item ? [`item ${error.item.number}`] : [])] : ["succeeded"])],
    ["Duration", (attempt) => [lengthOf(attempt)]],
  ];
  return parts
    .map(([title, read]) => ({ title, lines: diffLines(read(before, 0), read(after, 1)) }))
    .filter(({ lines }) => lines.length > 0);
}

export function lengthOf({ started_at, finished_at }: AttemptReport): string {
  return started_at && finished_at ? duration(Date.parse(finished_at) - Date.parse(started_at)) : "";
}

function textOf(value: unknown): string[] {
  return value === undefined ? [] : (JSON.stringify(value, null, 2) ?? "").split("\n");
}
