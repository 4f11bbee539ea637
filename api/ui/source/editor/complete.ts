/** Completion: keys, values, action types, steps, and in templates the names in scope. */

import type { Completion, CompletionContext, CompletionResult } from "@codemirror/autocomplete";

import { printable } from "../parts/value";
import type { Draft, Language, ScopeName } from "./answers";
import { placeAt, triggerAt } from "./place";
import { describeAction, keysAt, valuesAt } from "./schema";

const WORD = /[\p{L}\p{N}_./+-]*$/u;
const NAME = /[\p{L}\p{N}_]*$/u;
const LANGUAGE_NAMES: Record<string, string> = {
  steps: "the steps of this run, as this branch knows them",
  run: "this run",
  step: "this step",
  error: "the failure of this step, or none",
  result: "in a rule: the result of this step",
  secrets: "secrets of the service, in parameters that allow them",
};

export interface Known {
  language: Language | null;
  draft: Draft | null;
}

/** Return the source of completions. `known` returns what the service has answered so far. */
export function completeWith(known: () => Known): (context: CompletionContext) => CompletionResult | null {
  return (context) => {
    const line = context.state.doc.lineAt(context.pos);
    const before = line.text.slice(0, context.pos - line.from);
    const template = before.lastIndexOf("{{");
    const { language, draft } = known();
    if (template >= 0 && !before.slice(template).includes("}}")) {
      const trigger = triggerAt(context.state.doc.toString().split("\n"), line.number - 1);
      return completeExpression(context, before.slice(template + 2), (start) =>
        trigger === null ? expressionOptions(start, language, draft) : triggerOptions(start, trigger, language),
      );
    }
    return completeText(context, language, draft);
  };
}

function completeExpression(context: CompletionContext, code: string, find: (start: string) => Completion[]): CompletionResult | null {
  const word = NAME.exec(code)?.[0] ?? "";
  const start = code.slice(0, code.length - word.length);
  const from = context.pos - word.length;
  if (/['"][^'"]*$/.test(start) && (start.match(/['"]/g)?.length ?? 0) % 2 === 1) return null;
  const options = find(start);
  if (!word && !context.explicit && !/[.|({\s]$/.test(start)) return null;
  return options.length ? { from, options, validFor: /^[\p{L}\p{N}_]*$/u } : null;
}

/** Return what a template of a trigger reads: little, as there is no run yet. */
function triggerOptions(start: string, type: string, language: Language | null): Completion[] {
  const isFilter = /\|\s*$/.test(start) || /\bis\s+(not\s+)?$/.test(start);
  if (isFilter) return expressionOptions(start, language, null);
  const owner = /([\p{L}\p{N}_]+)(?:\.[\p{L}\p{N}_]+)*\.$/u.exec(start);
  if (owner && !/(^|[^.\p{L}\p{N}_])trigger\.$/u.test(start)) return [];
  if (owner) {
    const words = language?.trigger_attributes ?? {};
    return (words[type] ?? [...new Set(Object.values(words).flat())]).map((label) => ({ label, type: "property", detail: "of trigger" }));
  }
  return (language?.trigger_names ?? []).map((label) =>
    label === "trigger"
      ? { label, type: "keyword", detail: "what has fired", boost: 1 }
      : { label, type: "function", detail: "function", apply: `${label}()` },
  );
}

function expressionOptions(start: string, language: Language | null, draft: Draft | null): Completion[] {
  const names = draft?.scope?.names ?? [];
  const owner = /([\p{L}\p{N}_]+)(?:\.([\p{L}\p{N}_]+))?\.$/u.exec(start);
  if (owner) {
    const [, first = "", second] = owner;
    if (first === "steps" && second === undefined) return (draft?.steps ?? []).map(({ name }) => ({ label: name, type: "step", detail: "step" }));
    if (first === "args") return names.filter(({ kind }) => kind === "args").map(({ name }) => ({ label: name.slice(5), type: "property" }));
    const kind = first === "input" ? "input" : first === "environment" ? "environment" : null;
    if (kind) return names.filter((name) => name.kind === kind).map(nameOption);
    return (language?.attributes[first] ?? []).map((label) => ({ label, type: "property", detail: `of ${first}` }));
  }
  if (/\|\s*$/.test(start)) return (language?.filters ?? []).map((label) => ({ label, type: "function", detail: "filter" }));
  if (/\bis\s+(not\s+)?$/.test(start)) return (language?.tests ?? []).map((label) => ({ label, type: "function", detail: "test" }));
  return [
    ...names.filter(({ kind }) => kind !== "args").map(nameOption),
    ...Object.entries(LANGUAGE_NAMES).map(([label, detail]) => ({ label, detail, type: "keyword", boost: -1 })),
    ...(language?.functions ?? []).map((label) => ({ label, type: "function", detail: "function", apply: `${label}()`, boost: -2 })),
  ];
}

const KINDS: Record<ScopeName["kind"], string> = {
  input: "input",
  environment: "environment",
  variable: "variable",
  saved: "saved",
  item: "of the loop",
  args: "argument",
};

function nameOption({ name, kind, step, line, may_lack }: ScopeName): Completion {
  const source = kind === "saved" && step !== null ? `saved by ${printable(step)}, line ${line}` : KINDS[kind];
  return { label: name, type: "variable", detail: may_lack ? `${source}, may lack a value` : source, boost: kind === "saved" || kind === "item" ? 1 : 0 };
}

function completeText(context: CompletionContext, language: Language | null, draft: Draft | null): CompletionResult | null {
  const { doc } = context.state;
  const line = doc.lineAt(context.pos);
  const lines = doc.toString().split("\n");
  if (line.text.slice(0, context.pos - line.from).trimStart().startsWith("#")) return null;
  const place = placeAt(lines, line.number - 1, context.pos - line.from);
  const word = WORD.exec(place.prefix)?.[0] ?? "";
  if (place.prefix !== word) return null;
  if (!word && !context.explicit) return null;
  const options = place.key === null ? itemOptions(place, language, draft) : valueOptions(place, language, draft);
  return options.length ? { from: context.pos - word.length, options, validFor: /^[\p{L}\p{N}_./+-]*$/u } : null;
}

type Place = ReturnType<typeof placeAt>;

function itemOptions(place: Place, language: Language | null, draft: Draft | null): Completion[] {
  const keys = language ? keysAt(language.playbook_schema, place) : [];
  const options: Completion[] = keys.map(({ key, description, isRequired }) => ({
    label: key,
    type: "property",
    detail: isRequired ? "required" : "",
    info: description || undefined,
    apply: `${key}: `,
    boost: isRequired ? 2 : key === "action" ? 1 : 0,
  }));
  if (language && place.path.at(-1) === "-" && !place.siblings.size) {
    options.push(...valuesAt(language.playbook_schema, place).map((label) => ({ label, type: "enum" })));
  }
  const isRun = place.path.at(-1) === "-" && (place.path.at(-2) === "run" || (place.path[0] === "tasks" && place.path.length === 3));
  if (isRun && !place.siblings.size) {
    if (place.path.includes("rule")) options.push(...partOptions("step", draft?.steps));
    options.push(...partOptions("task", draft?.tasks));
  }
  return options;
}

function valueOptions(place: Place, language: Language | null, draft: Draft | null): Completion[] {
  const { key } = place;
  if (key === "start" || key === "finally" || key === "step") return partOptions("step", draft?.steps);
  if (key === "task") return partOptions("task", draft?.tasks);
  if (key === "case") return ["default", "error"].map((label) => ({ label, type: "keyword" }));
  if (!language) return [];
  if (key === "timezone" && place.path[0] === "triggers") return zoneOptions();
  const values = valuesAt(language.playbook_schema, place);
  if (key !== "action") return values.map((label) => ({ label, type: "enum" }));
  return values.map((label) => ({ label, type: "type", info: describeAction(language.playbook_schema, label) || undefined }));
}

/** Return the names of zones that the browser knows. */
function zoneOptions(): Completion[] {
  return ["UTC", ...Intl.supportedValuesOf("timeZone")].map((label) => ({ label, type: "enum" }));
}

function partOptions(kind: "step" | "task", parts: Draft["steps"] = []): Completion[] {
  return parts.map(({ name, line }) => ({
    label: name,
    type: kind,
    detail: `${kind}, line ${line}`,
    apply: /^[\p{L}_][\p{L}\p{N}_ ./-]*$/u.test(name) ? name : JSON.stringify(name),
  }));
}
