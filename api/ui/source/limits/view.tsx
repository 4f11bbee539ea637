/** Limits: how many runs and steps are in progress at once, what holds their units, and what waits. */

import type { ComponentChildren } from "preact";
import { linkTo, useAddress } from "../address";
import type { Page } from "../answers";
import { count, shortId, windowWords } from "../format";
import { useAnswer } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";

const READ_MS = 5_000;
const PAGE_SIZE = 100;

interface LimitEntry {
  id: string;
  name: string;
  kind: string | null;
  key: string | null;
  units: number;
  held: number;
  waiting: number;
  per: number | null;
  shared: boolean;
}

interface LimitUse {
  workflow_id: string | null; // null if it is one of another tenant
  visit: string | null;
  units: number;
  queued_at: string;
  held_at: string | null;
  begins_at: string | null; // of a unit that a rate gives later
  flow: string | null;
  priority: number | null; // null if it goes first
}

export function LimitsView() {
  const { params } = useAddress();
  const chosen = params.get("limit");
  const named = useAnswer<Page<LimitEntry>>(`/limits${query({ limit: PAGE_SIZE })}`, { everyMs: READ_MS });
  const own = useAnswer<Page<LimitEntry>>(`/limits${query({ in_use: "true", limit: PAGE_SIZE })}`, { everyMs: READ_MS });
  const problem = named.problem || own.problem;
  return (
    <main class="playbook">
      <header class="head">
        <h1>Limits</h1>
      </header>
      {named.data && own.data ? (
        <div class="tab limits" tabIndex={0} role="region" aria-label="Limits and what waits">
          <p role="status" class={problem ? "bad" : ""}>
            {printable(problem)}
          </p>
          <Limits title="Limits of operators" limits={named.data} chosen={chosen}>
            There are none. An administrator makes one with <code>noetl limits set</code>.
          </Limits>
          <Limits title="Limits of playbooks and steps in use" limits={own.data} chosen={chosen}>
            None is in use.
          </Limits>
          {chosen !== null && <Queue key={chosen} limit={chosen} />}
        </div>
      ) : problem ? (
        <p class="problem" role="alert">
          {printable(problem)}
        </p>
      ) : (
        <p class="empty">Reading the limits …</p>
      )}
    </main>
  );
}

interface LimitsProps {
  title: string;
  limits: Page<LimitEntry>;
  chosen: string | null;
  children: ComponentChildren;
}

function Limits({ title, limits: { items, next_cursor }, chosen, children }: LimitsProps) {
  return (
    <section aria-label={title}>
      <h2>{title}</h2>
      {items.length ? (
        <table>
          <thead>
            <tr>
              <th scope="col">Limit</th>
              <th scope="col">Key</th>
              <th scope="col">Held</th>
              <th scope="col">Waiting</th>
            </tr>
          </thead>
          <tbody>
            {items.map(({ id, name, kind, key, units, held, waiting, per, shared }) => (
              <tr key={id}>
                <th scope="row">
                  <a href={linkTo(["limits"], new URLSearchParams({ limit: id }))} aria-current={id === chosen ? "true" : undefined}>
                    <bdi>{printable(name)}</bdi>
                  </a>
                  {kind && `, ${kind}`}
                  {shared && " of all tenants"}
                </th>
                <td>
                  <bdi>{printable(key ?? "")}</bdi>
                </td>
                <td>
                  {count(held)} of {count(units)}
                  {per !== null && ` per ${windowWords(per)}`}
                </td>
                <td>{count(waiting)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>{children}</p>
      )}
      {next_cursor && <p>There are more than {count(PAGE_SIZE)}.</p>}
    </section>
  );
}

/** The runs and steps that hold units of a limit, then those that wait. */
function Queue({ limit }: { limit: string }) {
  const queue = useAnswer<Page<LimitUse>>(`/limits/${encodeURIComponent(limit)}/queue${query({ limit: PAGE_SIZE })}`, { everyMs: READ_MS });
  return (
    <section aria-label="Queue">
      <h2>
        Queue of <bdi>{printable(limit)}</bdi>
      </h2>
      {queue.data?.items.length ? (
        <table>
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col">What</th>
              <th scope="col">State</th>
              <th scope="col">Since</th>
              <th scope="col">Flow</th>
              <th scope="col">Priority</th>
            </tr>
          </thead>
          <tbody>
            {queue.data.items.map(({ workflow_id, visit, queued_at, held_at, begins_at, flow, priority }, place) => (
              <tr key={`${workflow_id ?? place} ${visit ?? ""}`}>
                <th scope="row">{workflow_id ? <a href={linkTo(["runs", workflow_id])}>{shortId(workflow_id)}</a> : "of another tenant"}</th>
                <td>{visit ? "a step" : workflow_id && "the run"}</td>
                <td>
                  {held_at ? "in progress" : begins_at ? "begins at " : "waits"}
                  <Time at={begins_at} />
                </td>
                <td>
                  <Time at={held_at ?? queued_at} />
                </td>
                <td>
                  <bdi>{printable(flow ?? "")}</bdi>
                </td>
                <td>{priority ?? "first"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>{queue.data ? "Nothing is in progress or waits." : printable(queue.problem)}</p>
      )}
      {queue.data?.next_cursor && <p>There are more than {count(PAGE_SIZE)}.</p>}
    </section>
  );
}
