/** The data of one visit of a step, in the order in which a person looks for a cause. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { setParams } from "../address";
import type { ErrorRecord, LoopItem, LoopItems, RunDetails, RunEntry, StepData, WaitReport } from "../answers";
import { count, duration, plural } from "../format";
import { useAnswer } from "../parts/context";
import { StateSign, toneOf, wordOf } from "../parts/state";
import { Time } from "../parts/times";
import { LongText, printable, Value } from "../parts/value";
import { query } from "../service";

const MAX_CELLS = 300;
const SHOWN_ITEMS = 20;

interface Props {
  run: RunDetails;
  source: string;
  step: string;
  visit: number | null;
  /** A text that changes when the step has changed, so that its data are read again. */
  version: string;
  onClose: () => void;
}

export function Drawer({ run, source, step, visit, version, onClose }: Props) {
  const report = run.steps[step];
  const hasStarted = Boolean(report?.visits);
  const path = `/workflows/${run.workflow_id}/step${query({ name: step, visit })}`;
  const { data, problem } = useAnswer<StepData>(hasStarted ? `${path}${version ? `#${version}` : ""}` : null, { keeps: true });
  const names = Object.keys(run.steps);
  const place = names.indexOf(step);
  const show = (name: string | undefined) => name && setParams({ step: name, visit: null }, { replace: true });
  return (
    <aside class="drawer" aria-label={`Step ${step}`}>
      <header>
        <StateSign state={report?.status ?? "never"} />
        <h2>
          <bdi>{printable(step)}</bdi>
        </h2>
        <span>{data && headline(data)}</span>
        <button type="button" aria-label="Previous step" disabled={place <= 0} onClick={() => show(names[place - 1])}>
          ↑
        </button>
        <button type="button" aria-label="Next step" disabled={place >= names.length - 1} onClick={() => show(names[place + 1])}>
          ↓
        </button>
        <button type="button" aria-label="Close" onClick={onClose}>
          ✕
        </button>
      </header>
      {!report && <p class="empty">This playbook has no step of this name.</p>}
      {report && !hasStarted && <NotStarted run={run} step={step} />}
      {problem && <p class="problem" role="alert">{problem}</p>}
      {data && <Sections run={run} data={data} source={source} />}
    </aside>
  );
}

function headline(data: StepData): string {
  const visit = data.visits > 1 ? `visit ${data.visit} of ${data.visits}` : "";
  const attempt = data.attempt > 1 ? `attempt ${data.attempt}` : "";
  return [visit, attempt, duration(data.duration_ms)].filter(Boolean).join(", ");
}

function NotStarted({ run, step }: { run: RunDetails; step: string }) {
  const report = run.steps[step];
  const join = report?.join;
  if (join) {
    return (
      <p class="empty">
        Waits at a join: {join.arrived.join(", ")} arrived; {join.missing.join(", ") || "nothing else"} may still arrive.
      </p>
    );
  }
  return <p class="empty">{report?.reachable === "never" ? "This step will not run any more." : "This step has not started."}</p>;
}

function Section({ title, note, children }: { title: string; note?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section>
      <h3>
        {title} {note && <small>{note}</small>}
      </h3>
      {children}
    </section>
  );
}

function Sections({ run, data, source }: { run: RunEntry; data: StepData; source: string }) {
  const actions = data.attempts.at(-1)?.actions.filter(({ input }) => input !== undefined) ?? [];
  const loops = data.attempts.at(-1)?.loops ?? [];
  return (
    <>
      {data.error && <ErrorBox error={data.error} source={source} />}
      {data.waiting_for && <Waits waits={data.waiting_for} />}
      {loops.length > 0 && <Items run={run} data={data} />}
      {actions.length > 0 && (
        <Section title="Input" note="as rendered">
          {actions.map((action) => (
            <div class="action" key={action.position}>
              <p>
                <b>{action.action}</b> <StateSign state={action.status} /> {wordOf(action.status)} {duration(action.duration_ms)}
              </p>
              <Value value={action.input} />
            </div>
          ))}
        </Section>
      )}
      {data.result !== null && (
        <Section title="Result">
          <Value value={data.result} />
        </Section>
      )}
      {data.saved.length > 0 && (
        <Section title="Saved">
          <dl class="pairs">
            {data.saved.map(({ name, old, new: value }) => (
              <div key={name}>
                <dt>
                  <bdi>{printable(name)}</bdi>
                </dt>
                <dd>
                  {old !== undefined && old !== null && (
                    <del>
                      <Value value={old} depth={2} />
                    </del>
                  )}{" "}
                  <Value value={value} depth={1} />
                </dd>
              </div>
            ))}
          </dl>
        </Section>
      )}
      {data.lines.length > 0 && (
        <Section title="Logs" note={plural(data.lines.length, "line")}>
          <ol class="log">
            {data.lines.map((line) => (
              <li key={line.id} class={line.level}>
                <Time at={line.logged_at} /> <i>{line.stream === "line" ? line.action : line.stream}</i> <LongText text={line.text} />
              </li>
            ))}
          </ol>
        </Section>
      )}
      <Section title="Attempts" note={plural(data.attempts.length, "attempt")}>
        <ol class="attempts">
          {data.attempts.map((attempt) => (
            <li key={attempt.attempt}>
              <b>{attempt.attempt}</b> <Time at={attempt.started_at} />{" "}
              {attempt.started_at && attempt.finished_at && duration(Date.parse(attempt.finished_at) - Date.parse(attempt.started_at))}{" "}
              {attempt.error && <span class="bad">{printable(attempt.error.message)}</span>}
            </li>
          ))}
        </ol>
      </Section>
      {data.guards.length > 0 && (
        <Section title="Rule" note={data.targets.length ? `leads to ${data.targets.join(", ")}` : "ends here"}>
          <ol class="guards">
            {data.guards.map((guard) => (
              <li key={guard.case} class={guard.case === data.case ? "taken" : ""}>
                <code>{printable(guard.guard ?? "default")}</code> {guard.value !== undefined && <Value value={guard.value} />}
              </li>
            ))}
          </ol>
        </Section>
      )}
      <Section title="Source" note={`line ${data.line}`}>
        <Lines source={source} line={data.line} after={6} />
      </Section>
    </>
  );
}

function ErrorBox({ error, source }: { error: ErrorRecord; source: string }) {
  return (
    <section class="error">
      <h3>
        <LongText text={error.message} /> <code>{error.type}</code>
      </h3>
      <dl class="pairs">
        {error.item && (
          <div>
            <dt>Item</dt>
            <dd>
              <b>{count(error.item.number)}</b> of {count(error.item.total)} <code>{printable(error.item.value)}</code>
            </dd>
          </div>
        )}
        {error.key && (
          <div>
            <dt>Key</dt>
            <dd>
              <code>{printable(error.key)}</code>
              {error.action && ` of ${error.action}`}
            </dd>
          </div>
        )}
        {error.expression && (
          <div>
            <dt>Expression</dt>
            <dd>
              <code>{printable(error.expression)}</code>
            </dd>
          </div>
        )}
        {error.values && (
          <div>
            <dt>Values</dt>
            <dd>
              {Object.entries(error.values).map(([name, value]) => (
                <code key={name}>
                  {printable(name)} = {printable(value)}
                </code>
              ))}
            </dd>
          </div>
        )}
        {error.status !== null && (
          <div>
            <dt>Status</dt>
            <dd>{error.status}</dd>
          </div>
        )}
        {error.details !== null && (
          <div>
            <dt>Details</dt>
            <dd>
              <Value value={error.details} />
            </dd>
          </div>
        )}
      </dl>
      {error.line ? <Lines source={source} line={error.line} before={1} after={1} /> : null}
    </section>
  );
}

function Lines({ source, line, before = 0, after }: { source: string; line: number; before?: number; after: number }) {
  const lines = source.split("\n");
  const first = Math.max(line - 1 - before, 0);
  return (
    <ol class="source">
      {lines.slice(first, line + after).map((text, index) => (
        <li key={index} class={first + index + 1 === line && before ? "marked" : ""} value={first + index + 1}>
          <bdi>{printable(text) || " "}</bdi>
        </li>
      ))}
    </ol>
  );
}

function Waits({ waits }: { waits: WaitReport }) {
  return (
    <Section title="Waits for">
      <ul>
        {waits.until && (
          <li>
            the time <Time at={waits.until} />
          </li>
        )}
        {waits.questions?.map((question) => (
          <li key={question.position}>a person: {printable(question.title ?? "an answer")}</li>
        ))}
        {!waits.questions?.length && waits.actions.map((action) => <li key={action}>{action}</li>)}
        {waits.workflows.map((id) => (
          <li key={id}>
            run <a href={`./${id}`}>{id}</a>
          </li>
        ))}
        {waits.retried?.map((action) => (
          <li key={action}>the next attempt of {action}</li>
        ))}
      </ul>
    </Section>
  );
}

function Items({ run, data }: { run: RunEntry; data: StepData }) {
  const [state, setState] = useState<string | null>(null);
  const path = `/workflows/${run.workflow_id}/items`;
  const totals = useAnswer<LoopItems>(`${path}${query({ step: data.step, visit: data.visit, limit: 1 })}#${data.finished_at ?? ""}`);
  const counts = totals.data?.counts ?? {};
  const chosen = state ?? (counts["failed"] ? "failed" : null);
  const page = useAnswer<LoopItems>(totals.data ? `${path}${query({ step: data.step, visit: data.visit, state: chosen, limit: SHOWN_ITEMS })}` : null);
  if (!totals.data) return null;
  const total = totals.data.total ?? 0;
  return (
    <Section title="Items" note={Object.entries(counts).map(([name, number]) => `${count(number)} ${wordOf(name).toLowerCase()}`).join(", ")}>
      <Strip counts={counts} total={total} />
      <div class="chips" role="group" aria-label="State of the items">
        {Object.entries(counts).map(([name, number]) => (
          <button type="button" key={name} aria-pressed={chosen === name} onClick={() => setState(name)}>
            <StateSign state={name} /> {wordOf(name)} <b>{count(number)}</b>
          </button>
        ))}
      </div>
      <ol class="items">
        {page.data?.items.map((item) => (
          <Item key={item.number} item={item} />
        ))}
      </ol>
      {page.data?.next_cursor && <p class="more">The first {SHOWN_ITEMS} are shown. All: <code>noetl runs items {run.workflow_id} --step {data.step}</code></p>}
    </Section>
  );
}

function Item({ item }: { item: LoopItem }) {
  return (
    <li>
      <StateSign state={item.state} /> <b>{count(item.number)}</b>{" "}
      {item.error && <span class="bad">{printable(item.error.message)}</span>} {item.value && <code>{printable(item.value)}</code>}
    </li>
  );
}

/** At most 300 cells, each for the same number of items, with the failed items first. */
function Strip({ counts, total }: { counts: Record<string, number>; total: number }) {
  if (!total) return null;
  const cells = Math.min(total, MAX_CELLS);
  const order = ["failed", "retrying", "waiting", "succeeded", "open", "pending", "cancelled"];
  const parts = order.filter((name) => counts[name]);
  let place = 0;
  return (
    <svg class="strip" viewBox={`0 0 ${cells} 1`} preserveAspectRatio="none" aria-hidden="true">
      {parts.map((name) => {
        const width = Math.max(((counts[name] as number) / total) * cells, 1);
        const x = place;
        place += width;
        return <rect key={name} class={toneOf(name === "open" ? "running" : name)} x={x} width={width} height="1" />;
      })}
    </svg>
  );
}

