/** The rows of a timeline: a row for each step, and below an open one its visits, attempts and failed items. */

import type { LeftOut, RunDetails, StepReport } from "../answers";
import { count, duration, plural } from "../format";
import { wordOf } from "../parts/state";
import type { BarRow } from "./bars";
import type { AttemptSpans, RunHistory, Span, VisitSpans } from "./history";

const MAX_FAILURES = 100;

export interface Place {
  step: string;
  visit?: number;
  attempt?: number;
  item?: number;
}

export interface TimelineRow extends BarRow {
  key: string;
  level: number;
  place: Place;
  label: string;
  /** A count after the label, such as `4×`. */
  times: string;
  state: string;
  length: string;
  /** What the bars show, in words. */
  words: string;
  isOpen: boolean | null;
}

/** Return the state of a step with what it waits for: `asks` for a person, and `join` for other branches. */
export function stateOf(report: StepReport | undefined, hasStarted: boolean): string {
  if (report?.join) return "join";
  if (report?.left_out) return "skipped";
  if (report?.waiting_for?.questions?.length) return "asks";
  return (hasStarted ? report?.status : (report?.reachable ?? report?.status)) ?? "may";
}

/** Return why a step has succeeded without its work. */
export function leftOutWords({ limit, key, requester }: LeftOut): string {
  if (limit === undefined) return `left out, with a result that ${requester ?? "a resume"} gave`;
  return `left out, because limit ${limit}${key === undefined ? "" : ` of ${key}`} was full`;
}

/** Return the names of steps in the order of the graph. */
export function orderOf(run: RunDetails): string[] {
  const drawn = run.graph?.nodes.flatMap(({ kind, steps }) => (kind === "step" || kind === "group" ? steps : [])) ?? [];
  return [...new Set([...drawn, ...Object.keys(run.steps)])].filter((name) => name in run.steps);
}

export function makeRows(names: readonly string[], run: RunDetails, history: RunHistory, open: ReadonlySet<string>, end: number): TimelineRow[] {
  const rows: TimelineRow[] = [];
  for (const step of names) {
    const report = run.steps[step];
    const known = history.steps.get(step);
    const visits = known?.visits ?? [];
    const only = visits.length === 1 ? visits[0] : undefined;
    const state = stateOf(report, visits.length > 0);
    const queued = queuedSince(step, run, history);
    const spans = queued ? [...(known?.spans ?? []), queued] : (known?.spans ?? []);
    const isOpenable = visits.length > 1 || (only ? hasParts(only) : false);
    const failures = visits.flatMap((visit) => visit.failures);
    rows.push({
      key: step,
      level: 1,
      place: { step },
      label: step,
      times: visits.length > 1 ? `${count(visits.length)}×` : "",
      state,
      spans,
      marks: failures.map(({ time }) => time),
      length: spans.length ? lengthOf(spans, end) : wordOf(state).toLowerCase(),
      words: describe(state, visits, spans, end, report?.left_out),
      note: report?.left_out ? leftOutWords(report.left_out) : "",
      isOpen: isOpenable ? open.has(step) : null,
    });
    if (!isOpenable || !open.has(step)) continue;
    if (only) rows.push(...partsOf(step, only, 2, end));
    else for (const visit of visits) rows.push(...visitRows(step, visit, open, end));
  }
  return rows;
}

/** Return the time in which a branch waits in the queue or at a join, if the step has not started since. */
function queuedSince(step: string, run: RunDetails, history: RunHistory): Span | null {
  const report = run.steps[step];
  const since = history.reached.get(step);
  const isQueued = since !== undefined && run.finished_at === null && (report?.join || report?.status === "pending");
  return isQueued && report?.reachable !== "never" ? { start: since, end: null, kind: "queued" } : null;
}

function hasParts(visit: VisitSpans): boolean {
  return visit.attempts.length > 1 || visit.failures.length > 0;
}

function visitRows(step: string, visit: VisitSpans, open: ReadonlySet<string>, end: number): TimelineRow[] {
  const key = `${step}\n${visit.number}`;
  const spans = visit.attempts.flatMap((attempt) => attempt.spans);
  const isOpen = hasParts(visit) ? open.has(key) : null;
  const row: TimelineRow = {
    key,
    level: 2,
    place: { step, visit: visit.number },
    label: `visit ${count(visit.number)}`,
    times: "",
    state: visit.state === "succeeded" && visit.leftOut ? "skipped" : visit.state,
    spans,
    marks: visit.failures.map(({ time }) => time),
    length: lengthOf(spans, end),
    words: describe(visit.state, [visit], spans, end, visit.leftOut),
    isOpen,
    note: visit.leftOut ? leftOutWords(visit.leftOut) : (visit.attempts[visit.attempts.length - 1]?.message ?? ""),
  };
  return isOpen ? [row, ...partsOf(step, visit, 3, end)] : [row];
}

function partsOf(step: string, visit: VisitSpans, level: number, end: number): TimelineRow[] {
  const attempts = visit.attempts.length > 1 ? visit.attempts : [];
  const rows = attempts.map((attempt, index) => attemptRow(step, visit, attempt, index === attempts.length - 1, level, end));
  for (const { number, time, message } of visit.failures.slice(0, MAX_FAILURES)) {
    rows.push({
      key: `${step}\n${visit.number} item ${number}`,
      level,
      place: { step, visit: visit.number, item: number },
      label: `item ${count(number)}`,
      times: "",
      state: "failed",
      spans: [{ start: time, end: time, kind: "failed" }],
      length: "",
      words: `failed: ${message}`,
      isOpen: null,
      note: message,
    });
  }
  const more = visit.failures.length - MAX_FAILURES;
  if (more > 0) {
    const label = `${plural(more, "more failed item")}`;
    rows.push({
      key: `${step}\n${visit.number} more`, level, place: { step, visit: visit.number }, label, times: "", state: "failed",
      spans: [], length: "", words: label, isOpen: null,
    });
  }
  return rows;
}

function attemptRow(step: string, visit: VisitSpans, attempt: AttemptSpans, isLast: boolean, level: number, end: number): TimelineRow {
  const spans = attempt.spans.filter(({ kind }) => kind !== "retry");
  const state = isLast ? visit.state : "failed";
  return {
    key: `${step}\n${visit.number} attempt ${attempt.number}`,
    level,
    place: { step, visit: visit.number, attempt: attempt.number },
    label: `attempt ${count(attempt.number)}`,
    times: "",
    state,
    spans,
    length: lengthOf(spans, end),
    words: [wordOf(state).toLowerCase(), lengthOf(spans, end), attempt.message].filter(Boolean).join(", "),
    isOpen: null,
    note: attempt.message,
  };
}

function lengthOf(spans: readonly Span[], end: number): string {
  const first = spans.find(({ kind }) => kind !== "queued") ?? spans[0];
  const last = spans[spans.length - 1];
  return first && last ? duration((last.end ?? end) - first.start) : "";
}

function describe(state: string, visits: readonly VisitSpans[], spans: readonly Span[], end: number, leftOut?: LeftOut): string {
  const sum = (kinds: string[]) => spans.reduce((total, span) => total + (kinds.includes(span.kind) ? (span.end ?? end) - span.start : 0), 0);
  const attempts = visits.reduce((most, visit) => Math.max(most, visit.attempts.length), 0);
  const failures = visits.reduce((total, visit) => total + visit.failures.length, 0);
  const parts = [
    leftOut ? leftOutWords(leftOut) : wordOf(state).toLowerCase(),
    visits.length > 1 ? plural(visits.length, "visit") : "",
    attempts > 1 ? plural(attempts, "attempt") : "",
    failures ? plural(failures, "failed item") : "",
    sum(["work", "failed"]) ? `${duration(sum(["work", "failed"]))} work` : "",
    sum(["waiting"]) ? `${duration(sum(["waiting"]))} waiting` : "",
    sum(["queued"]) ? `${duration(sum(["queued"]))} queued` : "",
  ];
  return parts.filter(Boolean).join(", ");
}
