/** The answers of the service about all triggers, as far as these views read them. */

import type { RunState } from "../answers";

export interface PastFiring {
  fired_at: string;
  scheduled_at: string | null;
  outcome: string;
  count: number;
  workflow_id: string | null;
  status: RunState | null;
  reason: string | null;
}

export interface CalendarTrigger {
  playbook: string;
  name: string;
  paused: boolean;
  schedule: string;
  timezone: string;
  firings: PastFiring[];
  has_earlier: boolean;
  planned: { scheduled_at: string; due_at: string }[];
  has_later: boolean;
}

export interface CalendarPage {
  since: string;
  until: string;
  items: CalendarTrigger[];
  next_cursor: string | null;
}

export interface ListedTrigger {
  playbook: string;
  name: string;
  type: string;
  paused: boolean;
  summary: string;
  due_at: string | null;
  last_at: string | null;
  last_outcome: string | null;
  last_run: string | null;
  /** What has fired it last, if it was not its source. */
  last_by: "hand" | "backfill" | null;
  changed_at: string;
}

export interface PartitionRun {
  partition: string;
  workflow_id: string;
}

export interface BackfillEntry {
  id: string;
  playbook: string;
  trigger: string;
  state: string;
  created_at: string;
  start_at: string | null;
  end_at: string | null;
  partitions: number;
  counts: Record<"passed" | "succeeded" | "failed" | "skipped" | "filtered" | "rejected", number>;
  open: PartitionRun[];
  failures: PartitionRun[];
  reason: string | null;
}
