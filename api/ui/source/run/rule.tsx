/** The rule of a step: its cases in their order, what their guards were, and which one was taken. */

import type { RunDetails, StepData } from "../answers";
import { printable, Value } from "../parts/value";
import type { Place } from "./rows";
import { Section } from "./section";

interface Props {
  run: RunDetails;
  data: StepData;
  onChoose: (place: Place) => void;
}

interface CaseRow {
  number: number;
  guard: string;
  value: unknown;
}

export function Rule({ run, data, onChoose }: Props) {
  const cases = casesOf(run, data);
  if (!cases.length) return null;
  return (
    <Section name="rule" title="Rule" note={data.targets.length ? "" : data.finished_at ? "ends here" : ""}>
      <ol class="guards">
        {cases.map(({ number, guard, value }) => (
          <li key={number} class={number === data.case ? "taken" : ""}>
            <code>{printable(guard)}</code>{" "}
            {value === undefined ? number === data.case ? "" : <i>not evaluated</i> : value === null ? <i>has no value</i> : <Value value={value} />}
            {number === data.case && (
              <>
                {" → "}
                {data.targets.map((target) => (
                  <button type="button" class="link" key={target} onClick={() => onChoose({ step: target })}>
                    <bdi>{printable(target)}</bdi>
                  </button>
                ))}
              </>
            )}
          </li>
        ))}
      </ol>
    </Section>
  );
}

/** Return the cases of a step: those that were evaluated, the one that was taken, and others that the graph shows. */
function casesOf(run: RunDetails, data: StepData): CaseRow[] {
  const cases = new Map<number, CaseRow>();
  for (const edge of run.graph?.edges ?? []) {
    for (const route of edge.routes) {
      if (route.step === data.step) cases.set(route.case, { number: route.case, guard: edge.label || "default", value: undefined });
    }
  }
  if (data.case !== null && data.case >= 0 && !cases.has(data.case)) {
    cases.set(data.case, { number: data.case, guard: "default", value: undefined });
  }
  for (const { case: number, guard, value } of data.guards) cases.set(number, { number, guard: guard ?? "default", value });
  return [...cases.values()].sort((a, b) => a.number - b.number);
}
