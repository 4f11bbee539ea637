/** The filter of the list of runs, as the address of the view has it. */

import type { RunState } from "../answers";
import { query } from "../service";

export interface RunFilter {
  status: RunState[];
  playbook: string;
  tag: string[];
  q: string;
  /** `OLDEST_FIRST`, or empty: the newest first. */
  sort: string;
  /** A duration before now, such as `1d`, or an interval `START/END` of two times. Empty: all. */
  since: string;
}

export const OLDEST_FIRST = "created_at";

export const PERIODS: Record<string, [words: string, seconds: number]> = {
  "1h": ["Last hour", 3600],
  "1d": ["Last day", 86_400],
  "7d": ["Last 7 days", 604_800],
  "30d": ["Last 30 days", 2_592_000],
  all: ["All times", 0],
};

/** The groups of states that a button selects. */
export const GROUPS: Record<string, { word: string; states: RunState[] }> = {
  running: { word: "Running", states: ["running"] },
  waiting: { word: "Waiting", states: ["waiting"] },
  failed: { word: "Failed", states: ["failed"] },
  completed_with_errors: { word: "With errors", states: ["completed_with_errors"] },
  succeeded: { word: "Succeeded", states: ["succeeded"] },
  other: { word: "Other", states: ["queued", "paused", "cancelled", "skipped", "timed_out"] },
};

export function readFilter(params: URLSearchParams): RunFilter {
  return {
    status: params.getAll("status") as RunState[],
    playbook: params.get("playbook") ?? "",
    tag: params.getAll("tag"),
    q: params.get("q") ?? "",
    sort: params.get("sort") ?? "",
    since: params.get("since") ?? "1d",
  };
}

export function isFiltered(filter: RunFilter): boolean {
  return Boolean(filter.status.length || filter.playbook || filter.tag.length || filter.q || filter.since !== "1d");
}

/** Return the first and the last time of a filter in milliseconds. A time without a limit is null. */
export function period(since: string, now: number): [number | null, number | null] {
  const seconds = PERIODS[since]?.[1];
  if (seconds) return [now - seconds * 1000, null];
  const [start, end] = since.split("/").map(Date.parse);
  return start && end ? [start, end] : [null, null];
}

/** Return the query for the service. `withStatus` false leaves out the states, for counts of all of them. */
export function filterQuery(filter: RunFilter, now: number, more: Record<string, string | number> = {}, withStatus = true): string {
  const [start, end] = period(filter.since, now);
  return query({
    status: withStatus ? filter.status : [],
    playbook: filter.playbook,
    tag: filter.tag,
    q: filter.q,
    since: start === null ? "" : new Date(start).toISOString(),
    until: end === null ? "" : new Date(end).toISOString(),
    ...more,
  });
}
