/** Steps of a plan in the text of its playbook, and how those of two versions differ. */

import type { PlanAnswer } from "./answers";

/** Return the lines of a step, up to the next step or the next section, and the number of the first. */
export function stepText(plan: PlanAnswer, step: string, text: string): { line: number; lines: string[] } {
  const line = lineOf(plan, step);
  const lines = text.split("\n");
  const starts = Object.keys(plan.graph.steps).map((name) => lineOf(plan, name));
  const next = Math.min(...starts.filter((start) => start > line), lines.length + 1);
  const found = lines.slice(line - 1, next - 1);
  const section = found.findIndex((content, index) => index > 0 && /^[^\s#-]/.test(content));
  const kept = section < 0 ? found : found.slice(0, section);
  while (kept.length > 1 && !kept[kept.length - 1]?.trim()) kept.pop();
  return { line, lines: kept };
}

function lineOf(plan: PlanAnswer, step: string): number {
  const line = plan.graph.steps[step]?.["line"];
  return typeof line === "number" && line > 0 ? line : 1;
}

export interface StepChanges {
  added: string[];
  removed: string[];
  changed: string[];
}

/** Return the steps that one plan has and the other has not, and those that do something else. */
export function compareSteps(a: PlanAnswer, b: PlanAnswer): StepChanges {
  const [before, after] = [a.graph.steps, b.graph.steps];
  const names = Object.keys(after);
  return {
    added: names.filter((name) => !(name in before)),
    removed: Object.keys(before).filter((name) => !(name in after)),
    changed: names.filter((name) => name in before && meaning(before[name]) !== meaning(after[name])),
  };
}

/** Return a step as text without the places of its parts. */
function meaning(step: unknown): string {
  return JSON.stringify(step, (key, value: unknown) => (/^(line|column|lines|span)$/.test(key) ? undefined : value));
}
