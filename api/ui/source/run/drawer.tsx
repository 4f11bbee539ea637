/** The data of one visit of a step, in the order in which a person looks for a cause. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { go, linkTo, useAddress } from "../address";
import { hasEnded, type ActionReport, type LeftOut, type LogLine, type RunDetails, type RunEntry, type StepData, type WaitReport } from "../answers";
import { duration, limitWords, plural, shortId, size } from "../format";
import { Action } from "../parts/action";
import { ColouredText } from "../parts/ansi";
import { describe, useAnswer, useShared } from "../parts/context";
import { State, StateSign, wordOf } from "../parts/state";
import { Time } from "../parts/times";
import { LongText, printable, saveFile, Value } from "../parts/value";
import { query } from "../service";
import { Attempts, CacheMark } from "./attempts";
import { commandOf } from "./command";
import { ErrorBox } from "./error";
import { Items, useItems } from "./items";
import type { LiveRun } from "./live";
import { leftOutWords, stateOf, type Place } from "./rows";
import { RepeatStep } from "./repeat";
import { Rule } from "./rule";
import { Lines, Section } from "./section";
import { openSubRun, subRunOf } from "./subrun";

export interface ShownPlace {
  step: string;
  visit: number | null;
  attempt: number | null;
  item: number | null;
}

interface Props {
  run: RunDetails;
  /** Null until it is known. */
  source: string | null;
  names: readonly string[];
  place: ShownPlace;
  /** A text that changes when the step has changed, so that its data are read again. */
  version: string;
  act: LiveRun["act"];
  reload: LiveRun["reload"];
  onChoose: (place: Place | null) => void;
}

export function Drawer({ run, source, names, place, version, act, reload, onChoose }: Props) {
  const { step, visit } = place;
  const report = run.steps[step];
  const hasStarted = Boolean(report?.visits);
  const path = `/workflows/${run.workflow_id}/step${query({ name: step, visit, at: run.moment?.event.id })}`;
  const { data: read, problem } = useAnswer<StepData>(hasStarted ? `${path}${version ? `#${version}` : ""}` : null, { keeps: true });
  // A step that is done again waits in the queue first. The data of its last visit stay until it starts.
  const data = hasStarted || !run.moment ? read : null;
  const index = names.indexOf(step);
  const show = (name: string | undefined) => name !== undefined && onChoose({ step: name });
  return (
    <aside class="drawer" aria-label={`Step ${printable(step)}`}>
      <header>
        <StateSign state={report ? stateOf(report, hasStarted) : "never"} />
        <h2 title={printable(step)}>
          <bdi>{printable(step)}</bdi>
        </h2>
        <span>{data && headline(data, place.attempt)}</span>
        <button type="button" aria-label="Previous step" title="Previous step ([)" disabled={index <= 0} onClick={() => show(names[index - 1])}>
          ↑
        </button>
        <button type="button" aria-label="Next step" title="Next step (])" disabled={index >= names.length - 1} onClick={() => show(names[index + 1])}>
          ↓
        </button>
        <Action changes={false} onAct={() => navigator.clipboard.writeText(location.href)}>
          Link
        </Action>
        <button type="button" aria-label="Close" title="Close (Esc)" onClick={() => onChoose(null)}>
          ✕
        </button>
      </header>
      {!report && <p class="empty">This playbook has no step of this name.</p>}
      {report && !hasStarted && !data && <NotStarted run={run} step={step} />}
      {data && source !== null && <Sections key={`${data.visit} ${data.status} ${data.attempt}`} run={run} data={data} source={source} place={place} version={version} act={act} reload={reload} onChoose={onChoose} />}
      {problem && <p class="problem" role="alert">{problem}</p>}
    </aside>
  );
}

function headline(data: StepData, shown: number | null): string {
  const visit = data.visits > 1 ? `visit ${data.visit} of ${data.visits}` : "";
  const attempt = data.attempt > 1 ? `attempt ${shown ?? data.attempt} of ${data.attempt}` : "";
  return [visit, attempt, duration(data.duration_ms)].filter(Boolean).join(", ");
}

function NotStarted({ run, step }: { run: RunDetails; step: string }) {
  const report = run.steps[step];
  const join = report?.join;
  if (join) {
    return (
      <p class="empty">
        Waits at a join: {join.arrived.map(printable).join(", ")} arrived; {join.missing.map(printable).join(", ") || "nothing else"} may still arrive.
      </p>
    );
  }
  return <p class="empty">{report?.reachable === "never" ? "This step will not run any more." : "This step has not started."}</p>;
}

interface SectionsProps {
  run: RunDetails;
  data: StepData;
  source: string;
  place: ShownPlace;
  version: string;
  act: LiveRun["act"];
  reload: LiveRun["reload"];
  onChoose: (place: Place | null) => void;
}

function Sections({ run, data, source, place, version, act, reload, onChoose }: SectionsProps) {
  const box = useRef<HTMLDivElement>(null);
  const { shown, isLatest } = attemptOf(data, place);
  const error = isLatest ? data.error : shown?.error;
  const hasLoop = !run.moment && Boolean(data.attempts[data.attempts.length - 1]?.loops?.length);
  const { loaded: items, problem, more } = useItems(data, hasLoop, version);
  return (
    <div ref={box}>
      <Anchors box={box} />
      {error && <ErrorBox run={run} step={data.step} error={error} source={source} act={act} reload={reload} />}
      {data.left_out && isLatest && <LeftOutNote reason={data.left_out} />}
      {data.waiting_for && isLatest && <Waits run={run} step={data.step} waits={data.waiting_for} />}
      {data.child_runs && data.child_runs.length > 0 && <SubRuns data={data} runs={data.child_runs} />}
      {problem && <p class="problem">{problem}</p>}
      {items && <Items data={data} item={place.item} loaded={items} onMore={more} onChoose={onChoose} />}
      {(items || problem || !hasLoop) && <Rest run={run} data={data} source={source} place={place} reload={reload} onChoose={onChoose} />}
    </div>
  );
}

/** The sections below the items. They are shown after these, so that they do not move. */
function Rest({ run, data, source, place, reload, onChoose }: Omit<SectionsProps, "version" | "act">) {
  const { shown, isLatest } = attemptOf(data, place);
  const actions = shown?.actions.filter(({ input, error, cached }) => input !== undefined || error || cached) ?? [];
  return (
    <>
      {actions.length > 0 && (
        <Section name="input" title="Input" note={`as rendered${isLatest ? "" : ` in attempt ${shown?.attempt}`}`}>
          {actions.map((action, index) => (
            <ActionInput key={`${action.position} ${index}`} action={action} />
          ))}
        </Section>
      )}
      {isLatest && data.result !== null && (
        <Section name="result" title="Result">
          <Value value={data.result} />
          <Missing length={data.cut?.["result"]} data={data} name="result" find={(full) => full.result} />
        </Section>
      )}
      {!isLatest && (
        <Section name="result" title="Result">
          <p class="note">Only the latest attempt has a result and saved values. Those of earlier ones are not kept.</p>
        </Section>
      )}
      {isLatest && data.saved.length > 0 && <Saved data={data} />}
      {data.lines.length > 0 && (
        <Section name="logs" title="Logs" note={plural(data.lines.length, "line")}>
          <LogLines lines={data.lines} />
        </Section>
      )}
      <Attempts data={data} attempt={place.attempt} onChoose={onChoose} />
      <Rule run={run} data={data} onChoose={onChoose} />
      <Section name="source" title="Source" note={`line ${data.line}`}>
        <Lines source={source} line={data.line} after={6} />
        <p class="actions">
          <a class="button" href={linkTo(["playbooks", run.playbook, "edit"], undefined, `L${data.line}`)}>
            Open line {data.line} in editor
          </a>
          <Action changes={false} onAct={() => navigator.clipboard.writeText(commandOf(run.workflow_id, data.step))}>
            Copy command
          </Action>
        </p>
      </Section>
      {!(isLatest && data.error) && (
        <Section name="again" title="Run again">
          <p class="actions">
            <RepeatStep run={run} step={data.step} canSkip={data.status !== "succeeded"} reload={reload} />
          </p>
        </Section>
      )}
    </>
  );
}

/** Return the attempt that is shown, by default the latest one. */
function attemptOf(data: StepData, place: ShownPlace) {
  const latest = data.attempts[data.attempts.length - 1];
  const shown = data.attempts.find(({ attempt }) => attempt === place.attempt) ?? latest;
  return { shown, isLatest: shown === latest };
}

/** Links to the sections that are present. The one in the address is shown first. */
function Anchors({ box }: { box: { current: HTMLDivElement | null } }) {
  const { hash, parts, params } = useAddress();
  const [names, setNames] = useState<[name: string, title: string][]>([]);
  useLayoutEffect(() => {
    const update = () => {
      const sections = [...(box.current?.querySelectorAll<HTMLElement>("section[data-title]") ?? [])];
      const found = sections.map((section): [string, string] => [section.id.replace("section-", ""), section.dataset["title"] ?? ""]);
      setNames((old) => (JSON.stringify(old) === JSON.stringify(found) ? old : found));
    };
    update();
    const observer = new MutationObserver(update);
    if (box.current) observer.observe(box.current, { childList: true });
    return () => observer.disconnect();
  }, []);
  const isPresent = names.some(([name]) => name === hash);
  useEffect(() => {
    if (isPresent) document.getElementById(`section-${hash}`)?.scrollIntoView({ block: "start" });
  }, [hash, isPresent]);
  return (
    <nav class="anchors" aria-label="Sections">
      {names.map(([name, title]) => (
        <a
          key={name}
          href={linkTo(parts, params, name)}
          aria-current={hash === name ? "true" : undefined}
          onClick={(event) => {
            event.preventDefault();
            document.getElementById(`section-${name}`)?.scrollIntoView({ block: "start" });
            go(linkTo(parts, params, name), { replace: true });
          }}
        >
          {title}
        </a>
      ))}
    </nav>
  );
}

function ActionInput({ action }: { action: ActionReport }) {
  return (
    <div class="action">
      <p>
        <b>{action.action}</b> <StateSign state={action.status} /> {wordOf(action.status)} {action.cached ? <CacheMark origin={action.cached} /> : duration(action.duration_ms)}
      </p>
      {action.error && <p class="bad">{printable(action.error.message)}</p>}
      {action.input !== undefined && <Value value={action.input} />}
      {Object.entries(action.cut ?? {}).map(([name, length]) => (
        <p class="note" key={name}>
          {printable(name)}: {size(length)}, of which this is the beginning. The rest is not kept.
        </p>
      ))}
    </div>
  );
}

interface MissingProps {
  length: number | undefined;
  data: StepData;
  /** The name of the value in that of the file. */
  name: string;
  /** Return the value in the data that are not cut. */
  find: (full: StepData) => unknown;
}

/** Say that only the beginning of a value is shown, and offer all of it as a file. */
function Missing({ length, data, name, find }: MissingProps) {
  const { service } = useShared();
  const [problem, setProblem] = useState("");
  if (length === undefined) return null;
  const { step, visit } = data;
  const save = async () => {
    const path = `/workflows/${data.workflow_id}/step${query({ name: step, visit, complete: "true" })}`;
    try {
      const value = find(await service.read<StepData>(path));
      const file = [shortId(data.workflow_id), step, visit > 1 ? `visit-${visit}` : "", name].filter(Boolean).join("-");
      if (typeof value === "string") saveFile(value, `${file}.txt`);
      else saveFile(JSON.stringify(value, null, 2), `${file}.json`);
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return (
    <p class="note">
      {size(length)}, of which this is the beginning.{" "}
      <Action changes={false} onAct={save}>
        Download
      </Action>{" "}
      {problem && <span class="bad">{problem}</span>}
    </p>
  );
}

function Saved({ data }: { data: StepData }) {
  return (
    <Section name="saved" title="Saved" note={data.saved.some(({ before }) => before !== undefined && before !== null) ? "old and new" : ""}>
      <dl class="pairs">
        {data.saved.map(({ name, value, before, cut }) => (
          <div key={name}>
            <dt>
              <bdi>{printable(name)}</bdi>
            </dt>
            <dd>
              {before !== undefined && before !== null && (
                <del>
                  <Value value={before} depth={2} />
                </del>
              )}{" "}
              <Value value={value} depth={1} />
              <Missing length={cut?.["value"]} data={data} name={name} find={(full) => full.saved.find((saved) => saved.name === name)?.value} />
            </dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}

/** Lines of `log` and of commands. Colours of commands are read. */
export function LogLines({ lines, withStep = false, marked }: { lines: readonly LogLine[]; withStep?: boolean; marked?: string }) {
  return (
    <ol class="log">
      {lines.map((line, index) => (
        <li key={line.id} id={withStep ? `L${index + 1}` : undefined} class={`${line.level ?? ""}${marked === `L${index + 1}` ? " marked" : ""}`}>
          <Time at={line.logged_at} />{" "}
          {withStep && (
            <>
              <bdi class="step">{printable(line.step)}</bdi>{" "}
            </>
          )}
          <i>
            {line.stream === "line" ? line.action : line.stream}
            {line.item ? ` item ${line.item}` : ""}
          </i>{" "}
          <LongText text={line.text} draw={(text) => <ColouredText text={text} />} />
        </li>
      ))}
    </ol>
  );
}

/** The runs that the visit has started. */
function SubRuns({ data, runs }: { data: StepData; runs: readonly RunEntry[] }) {
  const sub = subRunOf(useAddress().params.get("sub"));
  return (
    <Section name="runs" title="Sub-runs">
      <ul class="subruns">
        {runs.map(({ workflow_id: id, playbook, status }) => (
          <li key={id}>
            <State state={status} />
            <a href={linkTo(["runs", id])}>
              <bdi>{printable(playbook)}</bdi> {shortId(id)}
            </a>
            <button type="button" aria-pressed={sub?.id === id} onClick={() => openSubRun(sub?.id === id ? null : { step: data.step, id })}>
              Show in the graph
            </button>
          </li>
        ))}
      </ul>
    </Section>
  );
}

function LeftOutNote({ reason }: { reason: LeftOut }) {
  return (
    <Section name="skipped" title="Left out">
      <p class="note">The step succeeded, but its work was {printable(leftOutWords(reason))}.</p>
    </Section>
  );
}

function Waits({ run, step, waits }: { run: RunDetails; step: string; waits: WaitReport }) {
  const questions = waits.questions ?? [];
  return (
    <Section name="waits" title="Waits for">
      <ul>
        {waits.until && (
          <li>
            the time <Time at={waits.until} />
          </li>
        )}
        {questions.map((question) => (
          <li key={question.position}>a person: {printable(question.title ?? "an answer")}</li>
        ))}
        {!questions.length && waits.actions.map((action) => <li key={action}>{printable(action)}</li>)}
        {waits.limit && (
          <li>
            <a href={linkTo(["limits"])}>{printable(limitWords(waits.limit))}</a>
          </li>
        )}
        {waits.workflows.map((id) => (
          <li key={id}>
            run <a href={linkTo(["runs", id])}>{shortId(id)}</a>
          </li>
        ))}
        {waits.retried?.map((action) => (
          <li key={action}>the next attempt of {printable(action)}</li>
        ))}
      </ul>
      {questions.length > 0 && !hasEnded(run.status) && (
        <p class="actions">
          <a class="button primary" href={linkTo(["inbox", run.workflow_id], new URLSearchParams({ step }))}>
            Answer
          </a>
        </p>
      )}
    </Section>
  );
}
