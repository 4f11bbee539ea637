/** How the latest runs of a playbook ended, and how long its steps took. */

import { linkTo, setParams, useAddress } from "../address";
import { count, duration, plural } from "../format";
import { useAnswer } from "../parts/context";
import { State } from "../parts/state";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";
import type { PlaybookStatistics, StepStatistics } from "./answers";
import { playbookLink } from "./addresses";
import { SuccessRate } from "./list";

const NUMBERS = ["20", "50", "200"];
const COLUMNS = ["Step", "Runs", "Visits", "Failed", "Retried", "p50", "p95", "Longest"];

export function StatisticsTab({ name }: { name: string }) {
  const { params } = useAddress();
  const runs = NUMBERS.find((number) => number === params.get("runs")) ?? "50";
  const { data, problem } = useAnswer<PlaybookStatistics>(`/workflows/statistics${query({ playbook: name, runs })}`, { keeps: true });
  if (!data) return problem ? <p class="problem" role="alert">{problem}</p> : <p class="empty">Reading the statistics …</p>;
  return (
    <div class="tab statistics" tabIndex={0} role="region" aria-label="Statistics">
      {problem && <p class="problem" role="alert">{problem}</p>}
      <p class="summary">
        <label>
          The latest{" "}
          <select value={runs} onChange={(event) => setParams({ runs: event.currentTarget.value }, { replace: true })}>
            {NUMBERS.map((number) => (
              <option key={number}>{number}</option>
            ))}
          </select>{" "}
          runs
        </label>
        {data.since && (
          <span>
            {plural(data.runs, "run")} since <Time at={data.since} />
          </span>
        )}
      </p>
      {data.runs ? <Rates name={name} data={data} /> : <NoRuns name={name} />}
    </div>
  );
}

function NoRuns({ name }: { name: string }) {
  return (
    <p class="empty">
      This playbook has no runs yet. <a href={playbookLink(name, ["start"])}>Start one</a>
    </p>
  );
}

function Rates({ name, data }: { name: string; data: PlaybookStatistics }) {
  const { duration: all } = data;
  return (
    <>
      <dl class="rates">
        <div>
          <dt>Success</dt>
          <dd>{data.success_rate === null ? "no run has ended" : <SuccessRate rate={data.success_rate} />}</dd>
        </div>
        <div>
          <dt>Time of runs that succeeded</dt>
          <dd>{all.count ? `p50 ${duration(all.median_ms)}, p95 ${duration(all.p95_ms)}, longest ${duration(all.max_ms)}` : "none"}</dd>
        </div>
        <div>
          <dt>Ended as</dt>
          <dd>
            {Object.entries(data.statuses).map(([status, number]) => (
              <a key={status} href={linkTo(["runs"], new URLSearchParams({ playbook: name, status, since: "all" }))}>
                <State state={status} /> {count(number)}
              </a>
            ))}
          </dd>
        </div>
      </dl>
      <table>
        <thead>
          <tr>
            {COLUMNS.map((label, index) => (
              <th key={label} scope="col" class={index ? "number" : ""}>
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {Object.entries(data.steps).map(([step, statistics]) => (
            <StepRow key={step} name={name} step={step} statistics={statistics} />
          ))}
        </tbody>
      </table>
    </>
  );
}

function StepRow({ name, step, statistics }: { name: string; step: string; statistics: StepStatistics }) {
  const { runs, visits, failed, retried, duration: times } = statistics;
  const part = runs ? ` (${Math.round((100 * failed) / runs)} %)` : "";
  return (
    <tr>
      <th scope="row">
        <a href={playbookLink(name, [], { step })}>
          <bdi>{printable(step)}</bdi>
        </a>
      </th>
      <td class="number">{count(runs)}</td>
      <td class="number">{count(visits)}</td>
      <td class="number">{failed ? <span class="bad">{`${count(failed)}${part}`}</span> : "0"}</td>
      <td class="number">{count(retried)}</td>
      <td class="number">{duration(times.median_ms)}</td>
      <td class="number">{duration(times.p95_ms)}</td>
      <td class="number">{duration(times.max_ms)}</td>
    </tr>
  );
}
