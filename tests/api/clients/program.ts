// A program of a client with the types that openapi-typescript has generated. It is only compiled.
import type { components, operations, paths } from "./schema";

type Playbook = components["schemas"]["Playbook"];
type Submission = components["schemas"]["SubmissionBody"];
type Status = operations["getRunStatus"]["responses"][200]["content"]["application/json"];
type Result = paths["/workflows/result/{workflow_id}"]["get"]["responses"][202]["content"]["application/json"];
type Query = NonNullable<operations["listRuns"]["parameters"]["query"]>;
type Refusal = operations["startRun"]["responses"][422]["content"]["application/problem+json"];

const playbook: Playbook = {
  name: "greet",
  steps: [{ name: "hello", run: [{ action: "set", set: { greeting: "Hello {{ who }}" } }] }],
};
const submission: Submission = { playbook, input: { who: "you" }, tags: ["nightly"] };
const query: Query = { status: ["waiting"], since: "2026-01-31T09:30:00Z", limit: 10 };

// @ts-expect-error No run has this status.
const wrongQuery: Query = { status: ["lost"] };
// @ts-expect-error A request has no other members than the document says.
const wrongSubmission: Submission = { playbook, tag: "nightly" };
// @ts-expect-error No action has this type.
const wrongPlaybook: Playbook = { ...playbook, steps: [{ name: "a", run: [{ action: "htpp" }] }] };

export function describe(status: Status, result: Result, refusal: Refusal): string {
  const failed = Object.entries(status.steps).filter(([, step]) => step.status === "failed");
  const reasons = failed.map(([name, step]) => `${name}: ${step.error?.message ?? "unknown"}`);
  const diagnostics = refusal.diagnostics?.map((entry) => `${entry.code} in line ${entry.line}`) ?? [];
  return [status.created_at, result.status, refusal.detail, ...reasons, ...diagnostics].join("\n");
}

export { query, submission, wrongPlaybook, wrongQuery, wrongSubmission };
