/** The branches, joins and names of a run as they were after an event. */

import type { PastBranch, PastName, RunDetails } from "../answers";
import { plural, size } from "../format";
import { State } from "../parts/state";
import { printable, Value } from "../parts/value";
import type { Place } from "./rows";

interface Props {
  run: RunDetails;
  onChoose: (place: Place) => void;
}

export function Moment({ run, onChoose }: Props) {
  const { moment } = run;
  if (!moment) return null;
  const joins = Object.entries(moment.joins);
  return (
    <section class="timeline moment" aria-label="Earlier state">
      <h2>{plural(moment.branches.length, "branch", "branches")}</h2>
      <ul>
        {moment.branches.map((branch, index) => (
          <li key={index}>
            <button type="button" class="link" onClick={() => onChoose({ step: branch.step, visit: branch.visit ?? undefined })}>
              <bdi>{printable(branch.step)}</bdi>
            </button>{" "}
            {(branch.visit ?? 1) > 1 && `visit ${branch.visit} `}
            <State state={stateOf(branch)} />
          </li>
        ))}
      </ul>
      {joins.length > 0 && <h2>Joins</h2>}
      <ul>
        {joins.map(([step, { arrived, expected, fired }]) => (
          <li key={step}>
            <bdi>{printable(step)}</bdi>: {arrived} here, {expected} may still arrive{fired > 0 && `, fired ${plural(fired, "time")}`}
          </li>
        ))}
      </ul>
      <h2>Names</h2>
      <table>
        <tbody>
          {moment.names.map((name, index) => (
            <tr key={index}>
              <th scope="row">
                <bdi>{name.name}</bdi>
              </th>
              <td>
                {name.problem ? name.problem : <Value value={name.value} depth={1} />}
                {name.cut && <small>The first of {size(name.cut)}</small>}
              </td>
              <td>
                <small>{printable(sourceOf(name, moment.branches))}</small>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function stateOf({ kind, status }: PastBranch): string {
  return kind === "arrived" ? "join" : kind === "queued" ? "queued" : (status ?? "queued");
}

/** Return which visit saved a value, and which branches had it if others had not. */
function sourceOf({ step, visit, branches }: PastName, all: readonly PastBranch[]): string {
  const source = step === null ? "first value" : `from ${step}${(visit ?? 1) > 1 ? ` visit ${visit}` : ""}`;
  if (branches.length === all.filter(({ kind }) => kind !== "queued").length) return source;
  return `${source}; in ${branches.map((place) => all[place]?.step).join(", ")}`;
}
