/**
 * The triggers of a playbook: what each fires at, next firing and last outcome, and one of them with its history. It is paused,
 * resumed and fired by hand here. What the service answers changes words, and moves nothing.
 */

import { useState } from "preact/hooks";

import { linkTo, useAddress } from "../address";
import type { Page } from "../answers";
import { shortId } from "../format";
import { Action } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";
import type { FiringEntry, TriggerDetails, TriggerEntry } from "./answers";
import { playbookLink } from "./addresses";
import { FireForm } from "./fire";
import { Outcome, Trouble } from "./outcome";
import { overlapWords, SourceRows } from "./source";

const READ_MS = 15_000;
const MAX_TRIGGERS = 200;
const SHOWN_FIRINGS = 20;
const CATCH_UP = { none: "are not performed", last: "the last is performed", all: "all are performed" };

export function TriggersTab({ name }: { name: string }) {
  const { params } = useAddress();
  const { data, problem, reload } = useAnswer<Page<TriggerEntry>>(`/triggers${query({ playbook: name, limit: MAX_TRIGGERS })}`, { everyMs: READ_MS });
  if (!data) return problem ? <Trouble words={problem} /> : <p class="empty">Reading the triggers …</p>;
  const wanted = params.get("trigger");
  const chosen = wanted ?? data.items[0]?.name;
  if (!data.items.length && wanted === null) {
    return (
      <p class="empty" key="none">
        This playbook has no triggers. Declare them under <code>triggers</code>. <a href={playbookLink(name, ["edit"])}>Edit the playbook</a>
      </p>
    );
  }
  return (
    <div class="tab triggers" tabIndex={0} role="region" aria-label="Triggers">
      {problem && <Trouble words={problem} />}
      <table>
        <thead>
          <tr>
            <th scope="col">Trigger</th>
            <th scope="col">Fires at</th>
            <th scope="col">Next</th>
            <th scope="col">Last</th>
          </tr>
        </thead>
        <tbody>
          {data.items.map((trigger) => (
            <tr key={trigger.name} class={trigger.name === chosen ? "chosen" : ""}>
              <th scope="row">
                <a href={playbookLink(name, ["triggers"], { trigger: trigger.name })} aria-current={trigger.name === chosen ? "true" : undefined}>
                  <bdi>{printable(trigger.name)}</bdi>
                </a>
              </th>
              <td>
                <bdi>{printable(trigger.summary)}</bdi>
              </td>
              <td>{trigger.paused ? <span class="wait">Paused</span> : trigger.due_at ? <Time at={trigger.due_at} /> : trigger.type === "schedule" && "never"}</td>
              <td>
                <Outcome outcome={trigger.last_outcome} by={trigger.last_by} /> <Time at={trigger.last_at} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {chosen !== undefined && <Trigger key={chosen} playbook={name} name={chosen} onChange={reload} />}
    </div>
  );
}

interface Props {
  playbook: string;
  name: string;
  onChange: () => void;
}

function Trigger({ playbook, name, onChange }: Props) {
  const { service } = useShared();
  const path = `/triggers/${encodeURIComponent(playbook)}/${encodeURIComponent(name)}`;
  const { data, problem, reload } = useAnswer<TriggerDetails>(path, { everyMs: READ_MS });
  const [catchUp, setCatchUp] = useState<keyof typeof CATCH_UP>("none");
  const [refusal, setRefusal] = useState("");
  const [changes, setChanges] = useState(0);
  if (!data) {
    return (
      <section aria-label="Chosen trigger">
        {problem ? <Trouble words={problem} /> : <p>Reading the trigger …</p>}
      </section>
    );
  }
  const change = async (part: string, body?: unknown) => {
    try {
      await service.read(`${path}/${part}`, { method: "POST", ...(body === undefined ? {} : { body }) });
      setRefusal("");
      reload();
      onChange();
      setChanges((number) => number + 1);
    } catch (error) {
      setRefusal(describe(error));
    }
  };
  return (
    <section aria-label={`Trigger ${printable(name)}`}>
      <h2>
        <bdi>{printable(name)}</bdi>
      </h2>
      <Declaration trigger={data} />
      <div class="actions">
        <Action reason={data.paused ? "it is paused" : ""} onAct={() => change("pause")}>
          Pause
        </Action>
        <Action reason={data.paused ? "" : "it is not paused"} onAct={() => change("resume", data.type === "schedule" ? { catch_up: catchUp } : undefined)}>
          Resume
        </Action>
        {data.type === "schedule" && (
          <>
            <label>
              Missed firings{" "}
              <select disabled={!data.paused} value={catchUp} onChange={(event) => setCatchUp(event.currentTarget.value as keyof typeof CATCH_UP)}>
                {Object.entries(CATCH_UP).map(([mode, words]) => (
                  <option key={mode} value={mode}>
                    {words}
                  </option>
                ))}
              </select>
            </label>
            <a href={linkTo(["triggers", "calendar"], new URLSearchParams({ playbook, trigger: name }))}>Calendar</a>
          </>
        )}
        <output role="alert" class="bad">
          {printable(refusal || problem)}
        </output>
      </div>
      <FireForm path={path} trigger={data} />
      <History key={changes} path={path} />
    </section>
  );
}

function Declaration({ trigger }: { trigger: TriggerDetails }) {
  const { condition, key } = trigger;
  const overlap = overlapWords(trigger);
  return (
    <dl class="declared">
      <SourceRows trigger={trigger} />
      {(condition !== null || overlap) && (
        <div>
          <dt>Starts a run</dt>
          <dd>
            {condition !== null && (
              <>
                if <code>{printable(String(condition))}</code>{" "}
              </>
            )}
            {overlap}
          </dd>
        </div>
      )}
      {key && (
        <div>
          <dt>Once for each</dt>
          <dd>
            <code>{printable(key)}</code>
          </dd>
        </div>
      )}
      <div>
        <dt>{trigger.type === "webhook" ? "Last delivery" : "Last"}</dt>
        <dd>
          <Outcome outcome={trigger.last_outcome} by={trigger.last_by} /> <Time at={trigger.last_at} />
        </dd>
      </div>
      <div>
        <dt>Last run</dt>
        <dd>{trigger.last_run ? <RunLink id={trigger.last_run} /> : "none yet"}</dd>
      </div>
    </dl>
  );
}

function RunLink({ id }: { id: string }) {
  return <a href={linkTo(["runs", id])}>{shortId(id)}</a>;
}

function History({ path }: { path: string }) {
  const { service } = useShared();
  const first = useAnswer<Page<FiringEntry>>(`${path}/firings${query({ limit: SHOWN_FIRINGS })}`);
  const [more, setMore] = useState<Page<FiringEntry>>({ items: [], next_cursor: null });
  const [problem, setProblem] = useState("");
  const firings = [...(first.data?.items ?? []), ...more.items];
  const cursor = more.items.length ? more.next_cursor : (first.data?.next_cursor ?? null);
  const load = async () => {
    try {
      const page = await service.read<Page<FiringEntry>>(`${path}/firings${query({ limit: SHOWN_FIRINGS, cursor })}`);
      setMore({ items: [...more.items, ...page.items], next_cursor: page.next_cursor });
      setProblem("");
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return (
    <>
      <h3>History</h3>
      {first.data && !firings.length && <p>It has not fired yet.</p>}
      {firings.length > 0 && (
        <table class="firings">
          <thead>
            <tr>
              <th scope="col">Time</th>
              <th scope="col">Outcome</th>
              <th scope="col">Run, or why there is none</th>
            </tr>
          </thead>
          <tbody>
            {firings.map((firing) => (
              <tr key={firing.id + firing.fired_at}>
                <td>
                  <Time at={firing.scheduled_at ?? firing.fired_at} />
                </td>
                <td>
                  <Outcome outcome={firing.outcome} number={firing.count} />
                </td>
                <td>{firing.workflow_id ? <RunLink id={firing.workflow_id} /> : <bdi>{printable(firing.reason ?? "")}</bdi>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {(problem || first.problem) && <Trouble words={problem || first.problem} />}
      {cursor && (
        <p class="more">
          <button type="button" onClick={() => void load()}>
            Show more
          </button>
        </p>
      )}
    </>
  );
}
