/** The answers of the service that the editor reads. */

import type { DrawnGraph } from "../answers";

export interface TextEdit {
  line: number;
  column: number;
  end_line: number;
  end_column: number;
  text: string;
}

export interface Finding {
  code: string;
  severity: "error" | "warning" | "note";
  message: string;
  line: number;
  column: number;
  end_line: number;
  end_column: number;
  hint: string | null;
  fix?: TextEdit;
}

export interface ScopeName {
  name: string;
  kind: "input" | "environment" | "variable" | "saved" | "item" | "args";
  step: string | null;
  line: number | null;
  may_lack: boolean;
}

export interface DraftSchedule {
  trigger: string;
  line: number;
  timezone: string;
  firings: { scheduled_at: string; local: string; note: string | null }[];
}

export interface Draft {
  is_parsed: boolean;
  name: string | null;
  version: string | null;
  hash: string | null;
  diagnostics: Finding[];
  steps: { name: string; line: number }[];
  tasks: { name: string; line: number }[];
  schedules: DraftSchedule[];
  scope: { step: string | null; task: string | null; names: ScopeName[] } | null;
  drawing: DrawnGraph | null;
  drawing_problem: string | null;
}

/** A part of a JSON Schema. */
export interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  description?: string;
  type?: string;
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  required?: string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  if?: Schema;
  then?: Schema;
}

export interface Language {
  playbook_schema: Schema;
  attributes: Record<string, string[]>;
  trigger_attributes: Record<string, string[]>;
  trigger_names: string[];
  filters: string[];
  tests: string[];
  functions: string[];
}

export interface Registered {
  name: string;
  version: string;
  plan_hash: string;
  source: string;
  registered_at?: string;
  registered_by?: string | null;
  created_at?: string;
}
