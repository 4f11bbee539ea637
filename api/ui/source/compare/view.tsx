/** Two runs: what differs in playbook, input and result, and the first step that went another way. */

import { linkTo, setParams, useAddress } from "../address";
import type { RunState } from "../answers";
import { count, duration, plural, shortId } from "../format";
import { useAnswer } from "../parts/context";
import { State } from "../parts/state";
import { printable, Value } from "../parts/value";
import { query } from "../service";

interface ValueDifference {
  name: string;
  only?: "a" | "b";
  values: [unknown, unknown];
}

interface ComparedHead {
  workflow_id: string;
  playbook: string;
  version: string | null;
  status: RunState;
  duration_ms: number | null;
}

interface RunDifference {
  runs: [ComparedHead, ComparedHead];
  run: ValueDifference[];
  plan: { changed_lines: number | null } | null;
  input: ValueDifference[];
  steps: { step: string; visit: number; changes: ValueDifference[]; duration_ms: [number | null, number | null] }[];
  equal_visits: number;
  cut: boolean;
  outputs_not_compared: number;
}

const SIDES = ["a", "b"] as const;
const SHOWN_STEPS = 200;

export function CompareView() {
  const { params } = useAddress();
  const [a, b] = [params.get("a")?.trim() ?? "", params.get("b")?.trim() ?? ""];
  const isComplete = a !== "" && b !== "";
  const { data, problem } = useAnswer<RunDifference>(isComplete ? `/workflows/comparison${query({ a, b })}` : null);
  return (
    <main class="compare">
      <header class="head">
        <nav class="trail" aria-label="Place">
          <a href={linkTo(["runs"])}>Runs</a>
        </nav>
        <div class="title">
          <h1>Compare two runs</h1>
          <div class="actions">
            <button type="button" disabled={!isComplete} title={isComplete ? undefined : "Select two runs"} onClick={() => setParams({ a: b, b: a }, { replace: true })}>
              Swap
            </button>
          </div>
        </div>
      </header>
      {!isComplete && (
        <p class="empty">
          Select two runs in the <a href={linkTo(["runs"])}>list</a>, and then Compare.
        </p>
      )}
      {problem && (
        <p class="problem" role="alert">
          {problem} <a href={linkTo(["runs"])}>All runs</a>
        </p>
      )}
      {isComplete && !data && !problem && <p class="empty">Comparing the runs …</p>}
      {data && <Difference diff={data} />}
    </main>
  );
}

function Difference({ diff }: { diff: RunDifference }) {
  const [first, second] = diff.runs;
  const isSamePlaybook = first.playbook === second.playbook && first.version !== null && second.version !== null;
  const isEqual = !diff.run.length && !diff.input.length && !diff.steps.length && diff.plan === null;
  return (
    <div class="tab" tabIndex={0} role="region" aria-label="Differences of two runs">
      <table class="changes">
        <thead>
          <tr>
            <th scope="col">
              <span class="hidden">What</span>
            </th>
            {diff.runs.map((run, side) => (
              <th scope="col" key={side}>
                <RunHead run={run} side={SIDES[side] as "a" | "b"} />
              </th>
            ))}
          </tr>
        </thead>
        {diff.plan && (
          <tbody>
            <tr>
              <th scope="row">Plan</th>
              <td colSpan={2}>
                The playbooks differ{diff.plan.changed_lines === null ? "" : ` in ${plural(diff.plan.changed_lines, "line")}`}.{" "}
                {isSamePlaybook && (
                  <a
                    href={linkTo(
                      ["playbooks", first.playbook, "diff"],
                      new URLSearchParams({ a: first.version as string, b: second.version as string }),
                    )}
                  >
                    Compare the versions
                  </a>
                )}
              </td>
            </tr>
          </tbody>
        )}
        <Changes title="Run" changes={diff.run} />
        <Changes title="Input" changes={diff.input} />
        {diff.steps.slice(0, SHOWN_STEPS).map(({ step, visit, changes, duration_ms }) => (
          <Changes key={`${step} ${visit}`} title={step} visit={visit} changes={changes} durations={duration_ms} runs={diff.runs} />
        ))}
      </table>
      <p class="hint">{summary(diff, isEqual)}</p>
    </div>
  );
}

function summary({ steps, equal_visits: same, cut, outputs_not_compared }: RunDifference, isEqual: boolean): string {
  const sentences = [isEqual ? "Nothing differs but the times." : "", `${plural(same, "visit")} of steps ${same === 1 ? "is" : "are"} the same.`];
  if (steps.length > SHOWN_STEPS) sentences.push(`${count(steps.length - SHOWN_STEPS)} more differ.`);
  if (outputs_not_compared) sentences.push(`The outputs of ${plural(outputs_not_compared, "more visit")} were not compared.`);
  if (cut) sentences.push("The runs have more visits or events than were compared.");
  return sentences.filter(Boolean).join(" ");
}

function RunHead({ run, side }: { run: ComparedHead; side: "a" | "b" }) {
  return (
    <>
      <span class="tag">{side}</span>
      <a href={linkTo(["runs", run.workflow_id])}>
        <bdi>{printable(run.playbook)}</bdi> {run.version && <small>{printable(run.version)}</small>} <code>{shortId(run.workflow_id)}</code>
      </a>{" "}
      <State state={run.status} /> <small>{duration(run.duration_ms)}</small>
    </>
  );
}

interface ChangesProps {
  title: string;
  visit?: number;
  changes: ValueDifference[];
  durations?: [number | null, number | null];
  runs?: [ComparedHead, ComparedHead];
}

function Changes({ title, visit = 1, changes, durations, runs }: ChangesProps) {
  if (!changes.length) return null;
  const link = (side: number) => {
    const run = runs?.[side];
    return run && linkTo(["runs", run.workflow_id], new URLSearchParams({ step: title, visit: String(visit) }));
  };
  return (
    <tbody>
      <tr class="group">
        <th scope="rowgroup">
          <bdi>{printable(title)}</bdi> {visit > 1 && <small>visit {count(visit)}</small>}
        </th>
        {SIDES.map((side, index) => (
          <td key={side}>
            {durations?.[index] !== null && durations?.[index] !== undefined && <a href={link(index)}>{duration(durations[index])}</a>}
          </td>
        ))}
      </tr>
      {changes.map((change) => (
        <tr key={change.name}>
          <th scope="row">
            <bdi>{printable(change.name)}</bdi>
          </th>
          {SIDES.map((side, index) => (
            <td key={side}>
              <ChangedValue change={change} side={side} value={change.values[index]} />
            </td>
          ))}
        </tr>
      ))}
    </tbody>
  );
}

const STATES = new Set(["state", "status"]);

function ChangedValue({ change, side, value }: { change: ValueDifference; side: "a" | "b"; value: unknown }) {
  if (change.only && change.only !== side) return <span class="faint">absent</span>;
  if (change.name === "state" && value === null) return <span class="faint">not visited</span>;
  if (STATES.has(change.name) && typeof value === "string") return <State state={value} />;
  if (change.name === "error" && typeof value === "string") return <span class="bad">{printable(value)}</span>;
  return <Value value={value} />;
}
