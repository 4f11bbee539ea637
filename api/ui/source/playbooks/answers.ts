/** The answers of the service about playbooks, as far as these views read them. */

import type { DrawnGraph, RunState } from "../answers";

export interface PlaybookSummary {
  runs: number;
  more: boolean;
  success_rate: number | null;
  median_ms: number | null;
  p95_ms: number | null;
  last_run: string | null;
  last_status: RunState | null;
}

export interface PlaybookEntry {
  name: string;
  version: string;
  plan_hash: string;
  registered_at: string;
  registered_by: string | null;
  live_version: string;
  pinned: boolean;
  aliases: Record<string, string>;
  statistics?: PlaybookSummary;
}

/** The aliases that name a version, `live` first. */
export function aliasesOf(entry: PlaybookEntry): string[] {
  const others = Object.keys(entry.aliases).filter((alias) => entry.aliases[alias] === entry.version);
  return entry.version === entry.live_version ? [entry.pinned ? "live, pinned" : "live", ...others] : others;
}

export interface PlaybookDocument extends PlaybookEntry {
  source: string;
}

export interface Finding {
  code: string;
  severity: "error" | "warning" | "note";
  message: string;
  line: number;
  column: number;
  hint: string | null;
}

export interface DeclaredInput {
  type: string;
  required: boolean;
  default: unknown;
  enum: unknown[] | null;
  description: string | null;
  inferred: boolean;
}

export interface PlanAnswer {
  name: string;
  hash: string;
  diagnostics: Finding[];
  graph: { start: string; steps: Record<string, Record<string, unknown>> };
  inputs: Record<string, DeclaredInput>;
  drawing?: DrawnGraph | null;
  drawing_problem?: string | null;
}

export interface Durations {
  count: number;
  median_ms: number | null;
  p95_ms: number | null;
  max_ms: number | null;
}

export interface StepStatistics {
  runs: number;
  visits: number;
  failed: number;
  retried: number;
  duration: Durations;
}

export interface PlaybookStatistics {
  runs: number;
  since: string | null;
  statuses: Partial<Record<RunState, number>>;
  success_rate: number | null;
  duration: Durations;
  steps: Record<string, StepStatistics>;
}

export interface TriggerEntry {
  name: string;
  type: string;
  version: string;
  paused: boolean;
  /** What it fires at, on one line. */
  summary: string;
  due_at: string | null;
  last_at: string | null;
  last_outcome: string | null;
  last_run: string | null;
  /** What has fired it last, if it was not its source. */
  last_by: "hand" | "backfill" | null;
}

export interface ScheduleDefinition {
  jitter_seconds: number;
  overlap: string | null;
}

export interface WebhookDefinition {
  /** The path below the address of the service. */
  address: string;
  method: string;
  scheme: string;
  secrets: string[];
  header: string | null;
  max_bytes: number;
  answer: "accepted" | "result";
  wait_seconds: number;
}

export interface RunEndDefinition {
  awaits: string;
  statuses: string[];
}

export interface FolderDefinition {
  folder: string;
  glob: string;
  settle_seconds: number;
}

export interface BucketDefinition {
  bucket: string;
  prefix: string;
}

export interface EventDefinition {
  source: string;
  /** Empty for events of every type. */
  detail_types: string[];
}

export interface TriggerDetails extends TriggerEntry {
  definition: ScheduleDefinition | WebhookDefinition | RunEndDefinition | FolderDefinition | BucketDefinition | EventDefinition;
  input: Record<string, unknown>;
  condition: string | boolean | null;
  key: string | null;
  inputs: Record<string, DeclaredInput>;
  firings: { scheduled_at: string; local: string; due_at: string }[];
}

export interface FiringEntry {
  id: string;
  outcome: string;
  fired_at: string;
  scheduled_at: string | null;
  count: number;
  workflow_id: string | null;
  reason: string | null;
}
