/** The entries of a calendar: past firings and those to come, by day. */

import { wordOf } from "../parts/state";
import type { CalendarTrigger, PastFiring } from "./answers";
import type { Day } from "./days";

export interface Entry {
  trigger: CalendarTrigger;
  instant: string;
  time: string;
  /** The state whose sign is shown. */
  state: string;
  word: string;
  firing: PastFiring | null;
}

/** The state whose sign stands for an outcome without a run, and the word for it. */
const OUTCOMES: Record<string, [state: string, word: string]> = {
  started: ["queued", "Started"],
  skipped: ["never", "Skipped"],
  filtered: ["never", "Filtered"],
  missed: ["missed", "Missed"],
  rejected: ["failed", "Rejected"],
};

/** States in the order in which the worst one stands for several firings. */
const WORST = ["failed", "timed_out", "completed_with_errors", "missed", "cancelled", "skipped", "waiting", "paused", "running", "queued", "never", "may", "succeeded"];

type Clock = (instant: string | number) => { day: Day; time: string };

/** Return the entries of each day, in the order of their times. */
export function entriesByDay(triggers: readonly CalendarTrigger[], clock: Clock): Map<Day, Entry[]> {
  const days = new Map<Day, Entry[]>();
  const add = (instant: string, entry: Omit<Entry, "instant" | "time">) => {
    const { day, time } = clock(instant);
    const entries = days.get(day) ?? [];
    entries.push({ ...entry, instant, time });
    days.set(day, entries);
  };
  for (const trigger of triggers) {
    for (const firing of trigger.firings) {
      const [state, word] = firing.status ? [firing.status as string, wordOf(firing.status)] : (OUTCOMES[firing.outcome] ?? ["may", firing.outcome]);
      add(firing.fired_at, { trigger, firing, state, word });
    }
    const [state, word] = trigger.paused ? ["paused", "Paused"] : ["may", "Planned"];
    for (const { due_at: due } of trigger.planned) add(due, { trigger, firing: null, state, word });
  }
  for (const entries of days.values()) entries.sort((a, b) => Date.parse(a.instant) - Date.parse(b.instant));
  return days;
}

export interface Line {
  entry: Entry;
  /** How many firings of the trigger the line stands for. */
  number: number;
  /** How many of them have the state of the line. */
  alike: number;
}

/** Return at most `limit` lines for the entries of a day, and how many triggers have no line. */
export function linesOf(entries: readonly Entry[], limit: number): { lines: Line[]; rest: number } {
  if (entries.length <= limit) return { lines: entries.map((entry) => ({ entry, number: 1, alike: 1 })), rest: 0 };
  const groups = new Map<CalendarTrigger, Entry[]>();
  for (const entry of entries) groups.set(entry.trigger, [...(groups.get(entry.trigger) ?? []), entry]);
  const lines = [...groups.values()].map((group) => {
    const entry = group.reduce((worst, other) => (rank(other) < rank(worst) ? other : worst));
    return { entry, number: group.length, alike: group.filter(({ word }) => word === entry.word).length };
  });
  if (lines.length <= limit) return { lines, rest: 0 };
  lines.sort((a, b) => rank(a.entry) - rank(b.entry));
  return { lines: lines.slice(0, limit - 1), rest: lines.length - limit + 1 };
}

function rank(entry: Entry): number {
  return WORST.indexOf(entry.state);
}
