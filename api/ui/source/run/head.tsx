/** What a run is, and what a person can do with it. One action is the primary one. All keep their places. */

import { useState } from "preact/hooks";

import { go, linkTo } from "../address";
import { hasEnded, type Page, type RunDetails, type RunEntry } from "../answers";
import { count, duration, plural, shortId } from "../format";
import { Action, CertainAction, OneOf } from "../parts/action";
import { useAnswer } from "../parts/context";
import { lazy } from "../parts/lazy";
import { State } from "../parts/state";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";
import { refusesVersions, type LiveRun } from "./live";
import { SwitchUndo } from "./undo";

const SHOWN_SUB_RUNS = 5;

const OtherVersion = lazy(async () => (await import("./version")).OtherVersion);

interface Props extends Pick<LiveRun, "act" | "problem" | "deletedAt" | "history" | "reload"> {
  run: RunDetails;
  now: number;
}

export function RunHead({ run, now, problem, deletedAt, act, history, reload }: Props) {
  const [choosesVersion, setChoosesVersion] = useState(false);
  const failed = countOf(run, "failed");
  return (
    <header class="head">
      <nav class="trail" aria-label="Place">
        <a href={linkTo(["runs"])}>Runs</a>
        <span aria-hidden="true">›</span>
        <a href={linkTo(["runs"], new URLSearchParams({ playbook: run.playbook }))}>
          <bdi>{printable(run.playbook)}</bdi>
        </a>
        <span aria-hidden="true">›</span>
        <code title={run.workflow_id}>{shortId(run.workflow_id)}</code>
      </nav>
      <div class="title">
        <h1 tabIndex={-1}>
          <bdi>{printable(run.playbook)}</bdi>
        </h1>
        {run.version && <span class="tag">{printable(run.version)}</span>}
        <State state={run.status} />
        {failed > 0 && run.status !== "failed" && <span class="state bad">{plural(failed, "step")} failed</span>}
        <Actions run={run} act={act} isDeleted={deletedAt !== null} onVersion={() => setChoosesVersion(true)} />
      </div>
      <Facts run={run} now={now} />
      {deletedAt !== null ? (
        <p class="headline problem" role="alert">
          This run was deleted at <Time at={deletedAt} />.
        </p>
      ) : (
        <div class="switched">
          <p class={problem ? "headline problem" : "headline"} role={problem ? "alert" : undefined}>
            <bdi dir="ltr">{printable(problem || (run.headline ?? ""))}</bdi>
          </p>
          <SwitchUndo run={run} history={history} reload={reload} />
        </div>
      )}
      {choosesVersion && <OtherVersion run={run} reload={reload} onClose={() => setChoosesVersion(false)} />}
    </header>
  );
}

function countOf(run: RunDetails, state: string): number {
  return Object.values(run.steps).filter(({ status }) => status === state).length;
}

/** Return the step that asks a person, or undefined. */
export function askingStep(run: RunDetails): string | undefined {
  if (hasEnded(run.status)) return undefined;
  return Object.entries(run.steps).find(([, { waiting_for }]) => waiting_for?.questions?.length)?.[0];
}

/** Return the link to the form that starts a run like this one. */
function againLink(run: RunDetails): string {
  const params = new URLSearchParams(run.version ? { version: run.version } : {});
  params.set("from", run.workflow_id);
  return linkTo(["playbooks", run.playbook, "start"], params);
}

interface ActionsProps extends Pick<LiveRun, "act"> {
  run: RunDetails;
  isDeleted: boolean;
  onVersion: () => void;
}

function Actions({ run, act, isDeleted, onVersion }: ActionsProps) {
  const [isOpen, setIsOpen] = useState(false);
  const asks = askingStep(run);
  const ended = hasEnded(run.status);
  const isPaused = run.status === "paused";
  const gone = isDeleted ? "the run was deleted" : "";
  const resumable = ended && run.status !== "succeeded";
  const primary = asks ? "answer" : isPaused ? "unpause" : resumable ? "resume" : ended ? "again" : "";
  const end = gone || (ended ? "the run has ended" : "");
  return (
    <div class={`actions${isOpen ? " open" : ""}`}>
      <Action changes={false} class="minor plain" onAct={() => navigator.clipboard.writeText(location.href)}>
        Copy link
      </Action>
      <CertainAction
        class="minor"
        word="Delete"
        certain="Delete for ever"
        reason={gone || (ended ? "" : "after the run ends")}
        onAct={async () => {
          if (await act("", { method: "DELETE" })) go(linkTo(["runs"]));
        }}
      />
      <Action class="minor" reason={end} onAct={() => act("cancel")}>
        Cancel
      </Action>
      <Action class="minor" reason={end} isPrimary={primary === "unpause"} onAct={() => act(isPaused ? "unpause" : "pause")}>
        <OneOf words={["Unpause", "Pause"]} shown={isPaused ? "Unpause" : "Pause"} />
      </Action>
      <Action class="minor" reason={gone || refusesVersions(run)} onAct={onVersion}>
        Change version
      </Action>
      <Action class="minor" reason={gone} isPrimary={primary === "again"} onAct={() => go(againLink(run))}>
        Start again
      </Action>
      {asks ? (
        <Action
          reason={gone}
          isPrimary
          changes={false}
          onAct={() => go(linkTo(["inbox", run.workflow_id], new URLSearchParams({ step: asks })))}
        >
          <OneOf words={["Answer", "Resume"]} shown="Answer" />
        </Action>
      ) : (
        <Action
          reason={gone || (resumable ? "" : ended ? "a run that succeeded is not resumed" : "after the run ends")}
          isPrimary={primary === "resume"}
          onAct={() => act("resume")}
        >
          <OneOf words={["Answer", "Resume"]} shown="Resume" />
        </Action>
      )}
      <button type="button" class="more" aria-label="More actions" aria-expanded={isOpen} onClick={() => setIsOpen(!isOpen)}>
        •••
      </button>
    </div>
  );
}

function Facts({ run, now }: { run: RunDetails; now: number }) {
  const ended = hasEnded(run.status);
  const start = run.started_at ? Date.parse(run.started_at) : null;
  const length = start === null ? null : (run.finished_at ? Date.parse(run.finished_at) : now) - start;
  const may = Object.values(run.steps).filter(({ reachable }) => reachable === "may").length;
  const [failed, waiting] = [countOf(run, "failed"), countOf(run, "waiting")];
  const parts = [
    `${count(countOf(run, "succeeded"))} done`,
    failed ? `${count(failed)} failed` : "",
    waiting ? `${count(waiting)} waiting` : "",
    may && !ended ? `${count(may)} may run` : "",
  ];
  return (
    <p class="facts">
      <span>
        {run.begins_at ? "Begins" : "Started"} <Time at={run.begins_at ?? run.started_at ?? run.created_at} />
      </span>
      {run.starts ? <span>{`${count(run.starts)} starts joined`}</span> : null}
      <span>{`For ${duration(length)}`}</span>
      <span>{run.work_ms == null ? "" : `${duration(run.work_ms)} work`}</span>
      <span>{run.waiting_ms == null ? "" : `${duration(run.waiting_ms)} waiting`}</span>
      <span>{run.queued_ms == null ? "" : `${duration(run.queued_ms)} queued`}</span>
      <span>{`Steps: ${parts.filter(Boolean).join(", ")}`}</span>
      <span class="links">
        {run.parent && (
          <>
            Started by <a href={linkTo(["runs", run.parent])}>{shortId(run.parent)}</a>
          </>
        )}
        {run.trigger && (
          <>
            Started by trigger{" "}
            <a href={linkTo(["playbooks", run.playbook, "triggers"], new URLSearchParams({ trigger: run.trigger.name }))}>
              <bdi>{printable(run.trigger.name)}</bdi>
            </a>
            {run.trigger.scheduled_at && (
              <>
                , scheduled at <Time at={run.trigger.scheduled_at} />
              </>
            )}
            {run.trigger.workflow_id && (
              <>
                , after <a href={linkTo(["runs", run.trigger.workflow_id])}>{shortId(run.trigger.workflow_id)}</a>
              </>
            )}
            {run.trigger.backfill && (
              <>
                , by backfill <bdi>{printable(run.trigger.backfill)}</bdi>
              </>
            )}
          </>
        )}
        {run.resumed_from && (
          <>
            Continues <a href={linkTo(["runs", run.resumed_from])}>{shortId(run.resumed_from)}</a>
          </>
        )}
        <SubRuns run={run} />
        {run.tags.map((tag) => (
          <bdi class="tag" key={tag}>
            {printable(tag)}
          </bdi>
        ))}
      </span>
    </p>
  );
}

/** Links to the runs that this one has started, if a step of it can start one. */
function SubRuns({ run }: { run: RunDetails }) {
  const calls = run.graph?.nodes.some((node) => node.calls_playbook) ?? false;
  const path = `/workflows${query({ parent: run.workflow_id, limit: SHOWN_SUB_RUNS + 1 })}`;
  const { data } = useAnswer<Page<RunEntry>>(calls ? `${path}#${run.progress.finished}-${run.status}` : null, { keeps: true });
  if (!data?.items.length) return null;
  return (
    <>
      Started{" "}
      {data.items.slice(0, SHOWN_SUB_RUNS).map((sub) => (
        <a key={sub.workflow_id} href={linkTo(["runs", sub.workflow_id])} title={printable(sub.headline ?? "")}>
          {printable(sub.playbook)} {shortId(sub.workflow_id)}
        </a>
      ))}
      {data.items.length > SHOWN_SUB_RUNS && <span>and more</span>}
    </>
  );
}
