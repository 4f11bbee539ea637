/** What became of a firing, and what has gone wrong, in words. */

import { plural } from "../format";
import { printable } from "../parts/value";

const OUTCOMES: Record<string, [word: string, tone: string]> = {
  started: ["Started", ""],
  skipped: ["Skipped", "wait"],
  filtered: ["Filtered", ""],
  missed: ["Missed", "wait"],
  rejected: ["Rejected", "bad"],
};

const CAUSES: Record<string, string> = { hand: " by hand", backfill: " by a backfill" };

export function Outcome({ outcome, number = 1, by = null }: { outcome: string | null; number?: number; by?: string | null }) {
  if (outcome === null) return <>none yet</>;
  const [word, tone] = OUTCOMES[outcome] ?? [outcome, ""];
  return (
    <span class={tone}>
      {printable(word)}
      {number > 1 && ` ${plural(number, "time")}`}
      {by !== null && CAUSES[by]}
    </span>
  );
}

export function Trouble({ words }: { words: string }) {
  return (
    <p class="problem" role="alert">
      {printable(words)}
    </p>
  );
}
