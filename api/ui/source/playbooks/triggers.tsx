/**
 * The triggers of a playbook: schedule, next firings and last outcome, and one of them with its history. It is paused,
 * resumed and fired by hand here. What the service answers changes words, and moves nothing.
 */

import { useState } from "preact/hooks";

import { go, linkTo, useAddress } from "../address";
import type { Page } from "../answers";
import { shortId } from "../format";
import { Action } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { useRequestKey } from "../parts/request_key";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { Problem, query } from "../service";
import type { DeclaredInput, FiringEntry, TriggerDetails, TriggerEntry } from "./answers";
import { playbookLink } from "./addresses";
import { InputField } from "./field";
import { readTexts, type Texts } from "./inputs";
import { Outcome, Trouble } from "./outcome";

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
            <th scope="col">Schedule</th>
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
                <bdi>{printable(trigger.schedule)}</bdi>
              </td>
              <td>{trigger.paused ? <span class="wait">Paused</span> : trigger.due_at ? <Time at={trigger.due_at} /> : "never"}</td>
              <td>
                <Outcome outcome={trigger.last_outcome} /> <Time at={trigger.last_at} />
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
        <Action reason={data.paused ? "" : "it is not paused"} onAct={() => change("resume", { catch_up: catchUp })}>
          Resume
        </Action>
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
  const { definition, firings, condition } = trigger;
  const late = definition.jitter_seconds ? `, up to ${definition.jitter_seconds} s later` : "";
  return (
    <dl class="declared">
      <div>
        <dt>Schedule</dt>
        <dd>
          <bdi>{printable(trigger.schedule + late)}</bdi>
        </dd>
      </div>
      {(condition !== null || definition.overlap) && (
        <div>
          <dt>Starts a run</dt>
          <dd>
            {condition !== null && (
              <>
                if <code>{printable(String(condition))}</code>{" "}
              </>
            )}
            {definition.overlap && "unless the last run goes on"}
          </dd>
        </div>
      )}
      <div>
        <dt>{trigger.paused ? "Next, without the pause" : "Next"}</dt>
        <dd>
          {firings.length ? (
            <ul>
              {firings.map(({ due_at: due }, index) => (
                <li key={index}>
                  <Time at={due} />
                </li>
              ))}
            </ul>
          ) : (
            "It does not fire any more."
          )}
        </dd>
      </div>
      <div>
        <dt>Last</dt>
        <dd>
          <Outcome outcome={trigger.last_outcome} /> <Time at={trigger.last_at} />
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

/** Return a declared input as the form shows it. What the trigger gives needs no value. */
function givenField(field: DeclaredInput, given: unknown): DeclaredInput {
  if (given === undefined) return field;
  const words = `If empty: ${typeof given === "string" ? given : JSON.stringify(given)}`;
  return { ...field, required: false, inferred: true, description: [field.description, words].filter(Boolean).join(" ") };
}

function FireForm({ path, trigger }: { path: string; trigger: TriggerDetails }) {
  const { service } = useShared();
  const [texts, setTexts] = useState<Texts>({});
  const [errors, setErrors] = useState<Texts>({});
  const [instant, setInstant] = useState("");
  const [refusal, setRefusal] = useState("");
  const requests = useRequestKey();
  const [isSending, setIsSending] = useState(false);
  const fields = Object.fromEntries(Object.entries(trigger.inputs).map(([name, field]) => [name, givenField(field, trigger.input[name])]));
  const isKnown = trigger.firings.some(({ scheduled_at: time }) => time === instant);
  const fire = async () => {
    const { input, errors: wrong } = readTexts(fields, texts);
    setErrors(wrong);
    setRefusal(Object.keys(wrong).length ? "The trigger was not fired." : "");
    if (Object.keys(wrong).length || isSending) return;
    setIsSending(true);
    const body = { input, ...(isKnown ? { at: instant } : {}) };
    try {
      const headers = { "Idempotency-Key": requests.keyOf(JSON.stringify(body)) };
      const run = await service.read<{ workflow_id: string }>(`${path}/fire`, { method: "POST", body, headers });
      go(linkTo(["runs", run.workflow_id]));
    } catch (error) {
      const found = error instanceof Problem ? error.fields : [];
      setErrors(Object.fromEntries(found.map(({ name, message }) => [name, message])));
      const isForbidden = error instanceof Problem && error.status === 403;
      setRefusal(isForbidden ? "This key may not fire triggers. It needs the scope `run`." : describe(error));
    } finally {
      setIsSending(false);
    }
  };
  return (
    <details class="fire">
      <summary>Fire by hand</summary>
      <form
        class="start-form"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void fire();
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
          event.preventDefault();
          void fire();
        }}
      >
        <div class="field">
          <label for="fire-instant">When</label>
          <select id="fire-instant" value={isKnown ? instant : ""} onChange={(event) => setInstant(event.currentTarget.value)}>
            <option value="">Now</option>
            {trigger.firings.map(({ scheduled_at: time, local }) => (
              <option key={time} value={time}>
                Now, for {local.slice(0, 16).replace("T", " ")}
              </option>
            ))}
          </select>
        </div>
        {Object.entries(fields).map(([name, field], index) => (
          <InputField
            key={name}
            id={`fire-${index}`}
            name={name}
            field={field}
            text={texts[name] ?? ""}
            error={errors[name]}
            onText={(text) => setTexts((old) => ({ ...old, [name]: text }))}
          />
        ))}
        <div class="actions">
          <button type="submit" class="primary" aria-disabled={isSending}>
            Fire
          </button>
          <kbd>Ctrl Enter</kbd>
          <output role="alert" class="bad">
            {printable(refusal)}
          </output>
        </div>
      </form>
    </details>
  );
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
              <th scope="col">Scheduled</th>
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
