/** One run: graph and timeline side by side. The drawer takes the place of the timeline, so the graph never moves. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { linkTo, readAddress, setParams, useAddress } from "../address";
import { hasEnded, type RunDetails } from "../answers";
import { count } from "../format";
import { announce } from "../parts/announce";
import { useAnswer } from "../parts/context";
import { useFoundSteps } from "../parts/finder";
import { useKeys } from "../parts/keys";
import { lazy } from "../parts/lazy";
import { useQuestions } from "../parts/questions";
import { wordOf } from "../parts/state";
import { Time, useNow } from "../parts/times";
import { printable } from "../parts/value";
import { useWidth, type Width } from "../parts/width";
import { commandOf } from "./command";
import { Graph } from "./graph";
import { RunHead } from "./head";
import { useRun, type LiveRun } from "./live";
import { orderOf, type Place } from "./rows";
import { Steps } from "./steps";
import { subRunOf } from "./subrun";
import { Timeline } from "./timeline";
import { HistorySlider, travelTo, useTravel } from "./travel";

const loadDrawer = () => import("./drawer");
const Drawer = lazy(async () => (await loadDrawer()).Drawer);
const Data = lazy(async () => (await import("./tabs")).Data);
const Logs = lazy(async () => (await import("./tabs")).Logs);
const Events = lazy(async () => (await import("./tabs")).Events);
const Moment = lazy(async () => (await import("./moment")).Moment);
const Source = lazy(async () => (await import("./tabs")).Source);

/** How long after the first paint the drawer is loaded, so that it opens at once. */
const LOAD_MS = 300;

interface RunSource {
  source: string;
}

const VIEWS: Record<Width, Record<string, string>> = {
  wide: { both: "Graph and timeline" },
  narrow: { graph: "Graph", timeline: "Timeline" },
  phone: { steps: "Steps", timeline: "Timeline", graph: "Graph" },
};

export function RunView({ id }: { id: string }) {
  const { parts, params } = useAddress();
  const live = useRun(id, JSON.stringify(params.getAll("open")));
  const { run, problem } = live;
  useAnnouncements(run);
  useQuestions(run ? questionsOf(run) : undefined);
  if (!run) {
    return (
      <main class="run">
        {problem ? (
          <p key="problem" class="problem" role="alert">
            {problem} <a href={linkTo(["runs"])}>All runs</a>
          </p>
        ) : (
          <p key="reading" class="empty">Reading the run …</p>
        )}
      </main>
    );
  }
  return <ShownRun id={id} live={live} run={run} tab={parts[2] ?? ""} params={params} />;
}

interface ShownProps {
  id: string;
  live: LiveRun;
  run: RunDetails;
  tab: string;
  params: URLSearchParams;
}

function ShownRun({ id, live, run, tab, params }: ShownProps) {
  const { history, version, act, reload } = live;
  const width = useWidth();
  const step = tab === "logs" ? null : params.get("step");
  const answer = useAnswer<RunSource>(`/workflows/${id}/source#${run.plan_hash}`, { keeps: true });
  const source = answer.data?.source ?? (answer.problem ? "" : null);
  const travel = useTravel(id, params.get("at") ?? "", params.getAll("open"));
  const shown = travel.past ?? run;
  const now = useNow(!hasEnded(run.status));
  const [folds, setFolds] = useState(true);
  const names = useMemo(() => orderOf(run), [run.plan_hash, Object.keys(run.steps).length]);
  const choose = useChoice(step);
  useEffect(() => {
    const timer = setTimeout(() => void loadDrawer().catch(() => undefined), LOAD_MS);
    return () => clearTimeout(timer);
  }, []);
  useFoundSteps(names, (name) => choose({ step: name }));
  useStepKeys(id, shown, names, step, choose);
  const views = VIEWS[width];
  const wanted = params.get("view") ?? "";
  const view = width === "wide" ? (["graph", "timeline"].includes(wanted) ? wanted : "both") : wanted in views ? wanted : (Object.keys(views)[0] as string);
  const visit = Number(params.get("visit")) || null;
  const isPage = width === "phone" && step !== null;
  return (
    <main class="run">
      {!isPage && <RunHead {...live} run={run} now={now} />}
      <nav class="tabs" aria-label="Parts of the run" hidden={isPage}>
        {Object.entries(views).map(([name, label]) => {
          const kept = new URLSearchParams(travel.at ? { at: travel.at } : {});
          if (name !== "both") kept.set("view", name);
          const isCurrent = tab === "" && (width === "wide" || view === name);
          return (
            <a key={name} href={linkTo(["runs", id], kept)} aria-current={isCurrent ? "page" : undefined}>
              {label}
            </a>
          );
        })}
        {Object.entries({ data: "Data", logs: "Logs", events: "Events", source: "Source" }).map(([name, label]) => (
          <a key={name} href={linkTo(["runs", id, name])} aria-current={tab === name ? "page" : undefined}>
            {label} {name === "events" && <b class="number">{count(history.events.length)}</b>}
          </a>
        ))}
        <WaitsFor run={run} choose={choose} />
      </nav>
      {tab === "" && !isPage && <HistorySlider {...travel} run={run} events={history.events} reload={reload} />}
      {tab === "" && (
        <div class={`panels ${view}${step === null ? "" : " opened"}`}>
          {(view === "both" || view === "graph") &&
            !isPage &&
            (shown.graph ? (
              <Graph
                graph={shown.graph}
                run={shown}
                chosen={step}
                opened={params.getAll("open")}
                drawn={live.drawn}
                sub={subRunOf(params.get("sub"))}
                onChoose={(name) => choose({ step: name })}
                onOpen={(names) => setParams({ open: [...names] }, { replace: true })}
              />
            ) : (
              <p class="empty">{shown.graph_problem ?? "This run has no graph."}</p>
            ))}
          {step !== null ? (
            <Drawer
              key={`${step} ${visit}`}
              run={shown}
              source={source}
              names={names}
              place={{ step, visit, attempt: Number(params.get("attempt")) || null, item: Number(params.get("item")) || null }}
              version={versionOf(shown, step)}
              act={act}
              reload={reload}
              onChoose={choose}
            />
          ) : view === "steps" ? (
            <Steps run={shown} history={history} names={names} now={now} onChoose={choose} />
          ) : view === "graph" ? null : travel.past ? (
            <Moment run={travel.past} onChoose={choose} />
          ) : (
            <Timeline
              run={run}
              history={history}
              version={version}
              now={now}
              folds={folds}
              onFold={setFolds}
              chosen={step}
              onChoose={choose}
            />
          )}
        </div>
      )}
      {tab === "data" && <Data id={id} run={run} />}
      {tab === "logs" && <Logs id={id} version={String(version)} />}
      {tab === "events" && <Events events={history.events} version={version} />}
      {tab === "source" && <Source text={source ?? ""} />}
    </main>
  );
}

/** Return a function that shows a step in the drawer, or null to close it. The focus returns to where it was. */
function useChoice(step: string | null): (place: Place | null) => void {
  const opener = useRef<HTMLElement | SVGElement | null>(null);
  return (place) => {
    if (step === null && place) opener.current = document.activeElement as HTMLElement | null;
    const isNew = step === null || place === null;
    const texts = { step: place?.step ?? null, visit: textOf(place?.visit), attempt: textOf(place?.attempt), item: textOf(place?.item) };
    setParams(texts, { replace: !isNew, hash: "" });
    if (place !== null) return;
    const target = opener.current;
    requestAnimationFrame(() => {
      if (target?.isConnected && target !== document.body) target.focus();
      else document.querySelector<SVGElement>(`[data-step="${CSS.escape(step ?? "")}"]`)?.focus();
    });
  };
}

function textOf(value: number | null | undefined): string | null {
  return value ? String(value) : null;
}

function useStepKeys(id: string, run: RunDetails, names: readonly string[], step: string | null, choose: (place: Place | null) => void): void {
  const failed = names.filter((name) => run.steps[name]?.status === "failed");
  const next = (list: readonly string[], by: number) => {
    const place = step === null ? (by > 0 ? -1 : list.length) : list.indexOf(step);
    const name = list[(place + by + list.length) % list.length];
    if (name) choose({ step: name });
  };
  useKeys({
    Escape: () => (step === null ? readAddress().params.has("at") && travelTo(null) : choose(null)),
    "]": () => next(names, 1),
    "[": () => next(names, -1),
    n: () => next(failed, 1),
    g: () => setParams({ view: "graph" }, { replace: true }),
    t: () => setParams({ view: "timeline" }, { replace: true }),
    b: () => setParams({ view: null }, { replace: true }),
    c: () => void navigator.clipboard.writeText(location.href),
    y: () => void navigator.clipboard.writeText(commandOf(id, step)),
  });
}

/** The first step that waits, at the end of the tabs. */
function WaitsFor({ run, choose }: { run: RunDetails; choose: (place: Place) => void }) {
  if (hasEnded(run.status)) return null;
  const waits = Object.entries(run.steps).filter(([, report]) => report.waiting_for);
  const [name, report] = waits.find(([, { waiting_for }]) => waiting_for?.questions?.length) ?? waits[0] ?? [];
  if (!name || !report) return null;
  return (
    <span class="waits" key={name}>
      Waits for{" "}
      <button type="button" class="link" onClick={() => choose({ step: name })}>
        <bdi>{printable(name)}</bdi>
      </button>
      {report.waiting_for?.until && (
        <>
          , until <Time at={report.waiting_for.until} />
        </>
      )}
    </span>
  );
}

/** Say when the run ends, a step fails or a step begins to wait. */
function useAnnouncements(run: RunDetails | null): void {
  const last = useRef<RunDetails | null>(null);
  useEffect(() => {
    const old = last.current;
    last.current = run;
    if (!run || !old || old === run) return;
    const changed = (state: string) =>
      Object.keys(run.steps).find((name) => run.steps[name]?.status === state && old.steps[name]?.status !== state);
    const [failed, waiting] = [changed("failed"), changed("waiting")];
    if (run.status !== old.status && hasEnded(run.status)) announce(`The run has ended: ${wordOf(run.status).toLowerCase()}.`);
    else if (failed) announce(`Step ${printable(failed)} has failed.`);
    else if (waiting) announce(`Step ${printable(waiting)} waits.`);
  }, [run]);
}

/** Return the places of the open questions of a run. */
function questionsOf(run: RunDetails): string {
  if (hasEnded(run.status)) return "";
  const steps = Object.entries(run.steps);
  return steps.flatMap(([name, { visits, waiting_for }]) => (waiting_for?.questions ?? []).map(({ position }) => `${name} ${visits} ${position}`)).join();
}

function versionOf(run: RunDetails, step: string): string {
  const report = run.steps[step];
  return report ? `${report.status}-${report.visits}-${report.attempt}-${report.loops?.map(({ done }) => done).join("-") ?? ""}` : "";
}
