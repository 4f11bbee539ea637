/**
 * The history of a run as spans of time: visits, attempts and failed items of each step.
 *
 * Events are added in their order, each once. A visit works from its start, and from the next event after a pause.
 */

import type { ErrorRecord, HistoryEntry, LeftOut } from "../answers";

export type SpanKind = "queued" | "waiting" | "work" | "retry" | "failed";

export interface Span {
  start: number;
  /** Null: it goes on. */
  end: number | null;
  kind: SpanKind;
}

export interface AttemptSpans {
  number: number;
  spans: Span[];
  message: string;
}

export interface FailedItem {
  number: number;
  time: number;
  message: string;
}

export interface VisitSpans {
  number: number;
  state: string;
  attempts: AttemptSpans[];
  failures: FailedItem[];
  /** Why it has no work. */
  leftOut?: LeftOut;
}

export interface StepSpans {
  visits: VisitSpans[];
  /** The spans of all visits in the order of their start. */
  spans: Span[];
}

const STATES: Record<string, string> = {
  "step.started": "running",
  "step.waiting": "waiting",
  "step.retrying": "retrying",
  "step.completed": "succeeded",
  "step.failed": "failed",
};

const ENDS = new Set(["workflow.completed", "workflow.failed", "workflow.cancelled", "workflow.timed_out", "workflow.skipped"]);

export class RunHistory {
  readonly events: HistoryEntry[] = [];
  readonly steps = new Map<string, StepSpans>();
  /** When the first branch reached a step that has not started since. */
  readonly reached = new Map<string, number>();
  private readonly known = new Set<string>();
  private readonly open = new Map<VisitSpans, Span>();
  private begun: number | null = null;

  get last(): string | undefined {
    return this.events[this.events.length - 1]?.id;
  }

  /** Add an event, unless it is known: a stream may repeat the last ones. Return whether it is new. */
  add(entry: HistoryEntry): boolean {
    if (this.known.has(entry.id)) return false;
    this.known.add(entry.id);
    this.events.push(entry);
    const time = Date.parse(entry.at);
    if (entry.type === "workflow.started") this.begun = time;
    if (ENDS.has(entry.type)) this.endAll(time);
    if (entry.step && !entry.step.startsWith("@")) this.apply(entry, entry.step, time);
    return true;
  }

  private apply({ type, visit: number, attempt, payload }: HistoryEntry, name: string, time: number): void {
    const step = this.steps.get(name) ?? { visits: [], spans: [] };
    this.steps.set(name, step);
    const visit = findVisit(step, number ?? 1);
    const state = STATES[type];
    const isResumed = !state && ["waiting", "retry"].includes(this.open.get(visit)?.kind ?? "") && type !== "step.transition";
    if (type === "step.started" || isResumed) {
      this.close(visit, time);
      this.wait(step, visit, name, time);
      this.begin(step, visit, { start: time, end: null, kind: "work" }, attempt ?? 1);
    } else if (type === "step.waiting") {
      this.close(visit, time);
      this.begin(step, visit, { start: time, end: null, kind: "waiting" }, attempt ?? 1);
    } else if (type === "step.retrying") {
      this.close(visit, time, "failed");
      this.explain(visit, payload["error"]);
      this.begin(step, visit, { start: time, end: null, kind: "retry" }, attempt ?? 1);
    } else if (type === "step.failed") {
      this.close(visit, time, "failed");
      this.explain(visit, payload["error"]);
    } else if (type === "step.completed") this.close(visit, time);
    else if (type === "step.transition") this.reach(payload["targets"], time);
    else if (type === "step.skipped") visit.leftOut = { ...payload, requester: payload["by"] } as LeftOut;
    else if (type === "loop.item_failed") addFailure(visit, payload, time);
    if (state) visit.state = state;
  }

  /** Add the time in the queue before the first attempt of a visit. */
  private wait(step: StepSpans, visit: VisitSpans, name: string, time: number): void {
    const since = this.reached.get(name) ?? (this.steps.size === 1 ? this.begun : null);
    this.reached.delete(name);
    if (visit.attempts.length || since === null || since >= time) return;
    this.begin(step, visit, { start: since, end: time, kind: "queued" }, 1);
  }

  private begin(step: StepSpans, visit: VisitSpans, span: Span, number: number): void {
    let attempt = visit.attempts[visit.attempts.length - 1];
    if (!attempt || attempt.number !== number) {
      attempt = { number, spans: [], message: "" };
      visit.attempts.push(attempt);
    }
    attempt.spans.push(span);
    step.spans.push(span);
    if (span.end === null) this.open.set(visit, span);
  }

  private close(visit: VisitSpans, time: number, kind?: SpanKind): void {
    const span = this.open.get(visit);
    if (!span) return;
    span.end = time;
    if (kind && span.kind === "work") span.kind = kind;
    this.open.delete(visit);
  }

  private endAll(time: number): void {
    for (const visit of [...this.open.keys()]) {
      this.close(visit, time);
      if (visit.state !== "succeeded" && visit.state !== "failed") visit.state = "cancelled";
    }
    this.reached.clear();
  }

  private explain(visit: VisitSpans, error: unknown): void {
    const attempt = visit.attempts[visit.attempts.length - 1];
    if (attempt) attempt.message = messageOf(error);
  }

  private reach(targets: unknown, time: number): void {
    for (const name of Array.isArray(targets) ? (targets as unknown[]) : []) {
      if (typeof name === "string" && !this.reached.has(name)) this.reached.set(name, time);
    }
  }
}

/** Return a visit, which is most often the last or a new one. */
function findVisit(step: StepSpans, number: number): VisitSpans {
  const last = step.visits[step.visits.length - 1];
  const known = last && last.number < number ? undefined : last?.number === number ? last : step.visits.find((visit) => visit.number === number);
  if (known) return known;
  const visit: VisitSpans = { number, state: "queued", attempts: [], failures: [] };
  step.visits.push(visit);
  return visit;
}

function addFailure(visit: VisitSpans, payload: Record<string, unknown>, time: number): void {
  const number = (payload["item"] as { number?: unknown } | undefined)?.number;
  if (typeof number !== "number" || visit.failures.some((known) => known.number === number)) return;
  visit.failures.push({ number, time, message: messageOf(payload["error"]) });
}

function messageOf(error: unknown): string {
  const message = (error as Partial<ErrorRecord> | null | undefined)?.message;
  return typeof message === "string" ? message : "";
}
