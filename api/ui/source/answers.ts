/** The answers of the service, as far as the page reads them. `/openapi.json` describes all of them. */

export type RunState =
  | "queued"
  | "running"
  | "waiting"
  | "paused"
  | "succeeded"
  | "completed_with_errors"
  | "failed"
  | "cancelled"
  | "timed_out"
  | "skipped";

export const RUN_STATES: readonly RunState[] = [
  "running",
  "waiting",
  "queued",
  "paused",
  "failed",
  "completed_with_errors",
  "timed_out",
  "cancelled",
  "skipped",
  "succeeded",
];

export function hasEnded(state: RunState): boolean {
  return !["queued", "running", "waiting", "paused"].includes(state);
}

export interface RunEntry {
  workflow_id: string;
  status: RunState;
  playbook: string;
  version: string | null;
  parent: string | null;
  resumed_from: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  tags: string[];
  headline: string | null;
}

/** An entry of a list of runs. */
export interface ListedRun extends RunEntry {
  /** The name of the trigger that has started the run. */
  trigger?: string | null;
  steps?: { done: number; total: number } | null;
  /** How many steps the playbook has, if the run has succeeded. Not all of them need have run. */
  step_count?: number | null;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

export interface StatusCounts {
  total: number;
  more: boolean;
  statuses: Partial<Record<RunState, number>>;
}

export interface Histogram {
  step_seconds: number;
  total: number;
  more: boolean;
  buckets: { start: string; statuses: Partial<Record<RunState, number>> }[];
}

export interface ErrorRecord {
  type: string;
  message: string;
  action: string | null;
  step: string | null;
  attempt: number;
  status: number | null;
  details: unknown;
  line?: number;
  key?: string;
  expression?: string;
  values?: Record<string, string>;
  item?: { number: number; total: number; value: string };
}

export interface LoopCounts {
  position: string;
  done: number;
  failed: number;
  total: number;
}

export interface Question {
  position: string;
  title?: string;
  details?: unknown;
  answer?: Record<string, Field>;
}

export interface Field {
  type?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  required?: boolean;
}

export interface WaitReport {
  until: string | null;
  actions: string[];
  workflows: string[];
  retried?: string[];
  questions?: Question[];
  limit?: { limit: string; key: string | null; queued_before: number | null };
}

/** Why a step has succeeded without its work: a full limit, or the result that a resume has given. */
export interface LeftOut {
  limit?: string;
  key?: string;
  requester?: string;
}

export interface StepReport {
  status: string;
  visits: number;
  attempt: number;
  case: number | null;
  error: ErrorRecord | null;
  waiting_for?: WaitReport;
  left_out?: LeftOut;
  loops?: LoopCounts[];
  reachable?: "may" | "never";
  join?: { arrived: string[]; missing: string[] };
}

export interface GraphNode {
  key: string;
  kind: "step" | "group" | "work" | "fork" | "jump" | "start" | "end" | "failure";
  steps: string[];
  title: string;
  lines: string[];
  x: number;
  y: number;
  width: number;
  height: number;
  join: string | null;
  is_loop: boolean;
  calls_playbook: boolean;
  end: string | null;
  is_finally: boolean;
  /** Null in the drawing of a plan, which has no states. */
  state: string | null;
  words: string | null;
  items: { done: number; failed: number; total: number } | null;
}

export interface GraphEdge {
  source: string;
  target: string;
  label: string;
  number: number | null;
  is_error: boolean;
  routes: { step: string; case: number; target: string }[];
  points: [number, number][];
  label_at: [number, number] | null;
  marks: [number, number][] | null;
  mark: "taken" | "may" | "never";
  taken: number;
}

/** Boxes and lines with their coordinates. */
export interface DrawnGraph {
  width: number;
  height: number;
  nodes: GraphNode[];
  edges: GraphEdge[];
}

export interface RunDetails extends RunEntry {
  trigger?: { name: string; type: string; scheduled_at?: string | null; workflow_id?: string | null; backfill?: string | null };
  plan_hash: string;
  begins_at?: string;
  starts?: number;
  duration_ms: number | null;
  work_ms?: number | null;
  waiting_ms?: number | null;
  queued_ms?: number | null;
  steps: Record<string, StepReport>;
  progress: { steps: number; finished: number; running: number };
  error: ErrorRecord | null;
  cursor?: string | null;
  graph_problem?: string | null;
  graph?: DrawnGraph;
  /** Present if the run is shown as it was after an event. */
  moment?: PastState;
}

export interface PastBranch {
  step: string;
  kind: "visit" | "arrived" | "queued";
  visit: number | null;
  status: string | null;
}

export interface PastName {
  name: string;
  value: unknown;
  step: string | null;
  visit: number | null;
  branches: number[];
  cut?: number;
  problem?: string;
}

export interface PastState {
  number: number;
  events: number;
  event: HistoryEntry;
  branches: PastBranch[];
  joins: Record<string, { arrived: number; expected: number; fired: number }>;
  names: PastName[];
}

/** The origin of a result that was taken from the cache. */
export interface CachedReport {
  run: string;
  age_seconds: number;
  key: string;
}

export interface VerdictReason {
  code: string;
  message: string;
  step: string | null;
  line: number | null;
}

/** The answer to the question whether a run may continue in another version. */
export interface Verdict {
  may_continue: boolean;
  reasons: VerdictReason[];
  required: { name: string; type: string; line: number | null }[];
  more_required?: number;
  notices: VerdictReason[];
}

/** An action that acts outside, in a step that is done again. `done` is `yes`, `no` or `perhaps`. */
export interface RepeatedAction {
  position: string;
  action: string;
  line: number | null;
  done: string;
  idempotent: boolean;
}

export interface RepeatedStep {
  step: string;
  visit: number;
  reason: string;
  actions: RepeatedAction[];
}

/** What a resume would do again. */
export interface ResumePreview {
  steps: RepeatedStep[];
  verdict: Verdict | null;
}

/** The answer to one change of many runs. */
export interface BulkReport {
  accepted: number;
  skipped: { workflow_id: string; reason: string; detail: string }[];
  next_cursor: string | null;
}

export interface ActionReport {
  action: string;
  position: string;
  status: string;
  started_at: string | null;
  duration_ms: number | null;
  input?: Record<string, unknown>;
  cut?: Record<string, number>;
  error?: ErrorRecord;
  cached?: CachedReport | null;
}

export interface AttemptReport {
  attempt: number;
  worker: string | null;
  started_at: string | null;
  finished_at: string | null;
  error: ErrorRecord | null;
  actions: ActionReport[];
  loops?: LoopCounts[];
  cached?: CachedReport | null;
}

export interface LogLine {
  id: string;
  logged_at: string;
  step: string;
  visit: number;
  attempt: number;
  action: string;
  position: string;
  item?: number;
  stream: string;
  level?: string;
  text: string;
}

export interface SavedValue {
  name: string;
  value: unknown;
  before?: unknown;
  cut?: Record<string, number>;
}

export interface StepData {
  workflow_id: string;
  step: string;
  line: number;
  visit: number;
  visits: number;
  status: string;
  attempt: number;
  started_at: string | null;
  finished_at: string | null;
  duration_ms: number | null;
  work_ms?: number | null;
  waiting_ms?: number | null;
  queued_ms?: number | null;
  error: ErrorRecord | null;
  waiting_for?: WaitReport;
  left_out?: LeftOut;
  case: number | null;
  guards: { case: number; guard: string | null; value?: unknown }[];
  targets: string[];
  result: unknown;
  saved: SavedValue[];
  failures: unknown[];
  attempts: AttemptReport[];
  lines: LogLine[];
  cut?: Record<string, number>;
  child_runs?: RunEntry[];
}

export interface LoopItem {
  number: number;
  state: string;
  value?: string;
  attempts?: number;
  error?: ErrorRecord;
  input?: Record<string, unknown>;
  cut?: Record<string, number>;
  waiting_for?: unknown;
}

export interface LoopItems {
  total: number | null;
  counts: Record<string, number>;
  unlisted?: Record<string, number>;
  items: LoopItem[];
  next_cursor: string | null;
}

export interface HistoryEntry {
  id: string;
  type: string;
  at: string;
  step: string | null;
  visit: number | null;
  attempt: number | null;
  duration_ms: number | null;
  payload: Record<string, unknown>;
}

export interface InboxEntry {
  workflow_id: string;
  playbook: string;
  step: string;
  visit: number;
  position: string;
  opened_at: string;
  expires_at: string | null;
  title: string | null;
  details: unknown;
  answer: Record<string, Field> | null;
  cases: { case: number; guard: string | null; targets: string[] }[];
}
