/** One run: graph and timeline side by side. The drawer takes the place of the timeline, so the graph never moves. */

import { useEffect, useMemo, useState } from "preact/hooks";

import { go, linkTo, setParams, useAddress } from "../address";
import { hasEnded, type HistoryEntry, type Page, type RunDetails } from "../answers";
import { count, duration, plural, shortId } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { useKeys } from "../parts/keys";
import { State } from "../parts/state";
import { Time, useNow } from "../parts/times";
import { printable } from "../parts/value";
import { query, type Service } from "../service";
import { follow } from "../stream";
import { Drawer } from "./drawer";
import { Graph } from "./graph";
import { Data, Events, Logs, Source } from "./tabs";
import { Timeline } from "./timeline";

const MAX_EVENTS = 5000;
const EVENTS_PER_PAGE = 1000;
const PAINT_MS = 250;

interface RunSource {
  source: string;
}

export function RunView({ id }: { id: string }) {
  const { run, events, problem, act } = useRun(id);
  const { parts, params } = useAddress();
  const tab = parts[2] ?? "";
  const step = params.get("step");
  const view = params.get("view") ?? "both";
  const visit = Number(params.get("visit")) || null;
  const source = useAnswer<RunSource>(run ? `/workflows/${id}/source` : null).data?.source ?? "";
  const now = useNow(run !== null && !hasEnded(run.status));
  const [folds, setFolds] = useState(true);
  const choose = (name: string | null) => setParams({ step: name, visit: null }, { replace: step !== null && name !== null });
  const names = run ? Object.keys(run.steps) : [];
  const failed = names.filter((name) => run?.steps[name]?.status === "failed");
  const next = (list: string[], by: number) => {
    const place = step === null ? (by > 0 ? -1 : list.length) : list.indexOf(step);
    const name = list[(place + by + list.length) % list.length];
    if (name) choose(name);
  };
  useKeys({
    Escape: () => step !== null && choose(null),
    "]": () => next(names, 1),
    "[": () => next(names, -1),
    n: () => next(failed, 1),
    g: () => setParams({ view: "graph" }, { replace: true }),
    t: () => setParams({ view: "timeline" }, { replace: true }),
    b: () => setParams({ view: null }, { replace: true }),
    c: () => void navigator.clipboard.writeText(location.href),
    y: () => void navigator.clipboard.writeText(`noetl runs show ${id}${step ? ` --step ${step}` : ""}`),
  });
  if (!run) {
    return (
      <main class="run">
        {problem ? (
          <p class="problem" role="alert">
            {problem} <a href={linkTo(["runs"])}>All runs</a>
          </p>
        ) : (
          <p class="empty">Reading the run …</p>
        )}
      </main>
    );
  }
  const isOpen = step !== null;
  return (
    <main class="run">
      <RunHead run={run} now={now} problem={problem} act={act} />
      <nav class="tabs" aria-label="Parts of the run">
        {Object.entries({ "": "Graph and timeline", data: "Data", logs: "Logs", events: "Events", source: "Source" }).map(([name, label]) => (
          <a key={name} href={linkTo(["runs", id, name].filter(Boolean))} aria-current={tab === name ? "page" : undefined}>
            {label}
          </a>
        ))}
      </nav>
      {tab === "" && (
        <div class={`panels ${view}`}>
          {view !== "timeline" &&
            (run.graph ? (
              <Graph graph={run.graph} chosen={step} onChoose={choose} />
            ) : (
              <p class="empty">{run.graph_problem ?? "This run has no graph."}</p>
            ))}
          {isOpen ? (
            <Drawer
              key={`${step} ${visit}`}
              run={run}
              source={source}
              step={step}
              visit={visit}
              version={versionOf(run, step)}
              onClose={() => choose(null)}
            />
          ) : (
            view !== "graph" && (
              <Timeline run={run} events={events} now={now} folds={folds} onFold={setFolds} chosen={step} onChoose={choose} />
            )
          )}
        </div>
      )}
      {tab === "data" && <Data id={id} run={run} />}
      {tab === "logs" && <Logs id={id} version={String(events.length)} />}
      {tab === "events" && <Events events={events} />}
      {tab === "source" && <Source text={source} />}
    </main>
  );
}

function versionOf(run: RunDetails, step: string): string {
  const report = run.steps[step];
  return report ? `${report.status}-${report.visits}-${report.attempt}-${report.loops?.map(({ done }) => done).join("-") ?? ""}` : "";
}

interface LiveRun {
  run: RunDetails | null;
  events: readonly HistoryEntry[];
  problem: string;
  act: (path: string, body?: unknown) => Promise<void>;
}

/** Read a run, and again after its events, at most once in PAINT_MS. */
function useRun(id: string): LiveRun {
  const { service, setConnection } = useShared();
  const [run, setRun] = useState<RunDetails | null>(null);
  const [events, setEvents] = useState<readonly HistoryEntry[]>([]);
  const [problem, setProblem] = useState("");
  const [isLoaded, setIsLoaded] = useState(false);
  const control = useMemo(() => new AbortController(), [id]);
  const read = async () => {
    const found = await service.read<RunDetails>(`/workflows/${id}?include=graph`, { signal: control.signal });
    setRun((old) => keepGraph(old, found));
    setProblem("");
    return found;
  };
  const fail = (error: unknown) => {
    if (!control.signal.aborted) setProblem(describe(error));
  };
  useEffect(() => {
    const start = async () => {
      await read();
      setEvents(await readHistory(service, id, control.signal));
      setIsLoaded(true);
    };
    start().catch(fail);
    return () => control.abort();
  }, [id]);
  const isOpen = isLoaded && run !== null && !hasEnded(run.status);
  useEffect(() => {
    if (!isOpen) return;
    const following = new AbortController();
    let timer = 0;
    const paint = () => {
      timer ||= window.setTimeout(() => {
        timer = 0;
        void read().catch(fail);
      }, PAINT_MS);
    };
    const last = events[events.length - 1]?.id;
    const follower = {
      path: `/workflows/${id}/events${query({ cursor: last })}`,
      onFrame: ({ event, data }: { event: string; data: unknown }) => {
        if (event !== "end") setEvents((old) => addEvent(old, data as HistoryEntry));
        paint();
      },
      poll: async () => void (await read()),
      onConnection: setConnection,
    };
    follow(service, follower, following.signal).catch(fail);
    return () => {
      clearTimeout(timer);
      following.abort();
    };
  }, [id, isOpen]);
  const act = async (path: string, body?: unknown) => {
    try {
      await service.read(`/workflows/${id}/${path}`, { method: "POST", body: body ?? {} });
      await read();
      setEvents(await readHistory(service, id, control.signal));
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return { run, events, problem, act };
}

/** Return the history of a run, up to MAX_EVENTS. */
async function readHistory(service: Service, id: string, signal: AbortSignal): Promise<HistoryEntry[]> {
  const list: HistoryEntry[] = [];
  for (let cursor: string | null = ""; cursor !== null && list.length < MAX_EVENTS; ) {
    const path = `/workflows/${id}/events${query({ limit: EVENTS_PER_PAGE, cursor })}`;
    const page: Page<HistoryEntry> = await service.read(path, { signal });
    list.push(...page.items);
    cursor = page.items.length === EVENTS_PER_PAGE ? page.next_cursor : null;
  }
  return list;
}

/** Add an event, unless it is known: a stream may repeat the last ones. */
function addEvent(events: readonly HistoryEntry[], entry: HistoryEntry): readonly HistoryEntry[] {
  const isKnown = events.slice(-EVENTS_PER_PAGE).some(({ id }) => id === entry.id);
  return isKnown ? events : [...events, entry];
}

/** Keep the objects of edges and nodes that have not changed, so that only the others are drawn again. */
function keepGraph(old: RunDetails | null, found: RunDetails): RunDetails {
  if (!old?.graph || !found.graph) return found;
  const same = <T,>(before: T[], after: T[]) => {
    const kept = after.map((item, index) => (JSON.stringify(item) === JSON.stringify(before[index]) ? (before[index] as T) : item));
    return kept.length === before.length && kept.every((item, index) => item === before[index]) ? before : kept;
  };
  const graph = { ...found.graph, nodes: same(old.graph.nodes, found.graph.nodes), edges: same(old.graph.edges, found.graph.edges) };
  return { ...found, graph };
}

/** The one action that a person most likely wants. It keeps its place and its size. */
function MainAction({ run, act }: { run: RunDetails; act: LiveRun["act"] }) {
  const asks = Object.entries(run.steps).find(([, { waiting_for }]) => waiting_for?.questions?.length)?.[0];
  const ended = hasEnded(run.status);
  if (run.status === "paused") {
    return (
      <button type="button" class="main primary" onClick={() => void act("unpause")}>
        Unpause
      </button>
    );
  }
  if (asks && !ended) {
    const form = linkTo(["inbox", run.workflow_id], new URLSearchParams({ step: asks }));
    return (
      <button type="button" class="main primary" onClick={() => go(form)}>
        Answer
      </button>
    );
  }
  const canResume = ended && run.status !== "succeeded";
  return (
    <button
      type="button"
      class={`main${canResume ? " primary" : ""}`}
      disabled={!canResume}
      title={canResume ? undefined : ended ? "A run that succeeded is not resumed." : "After the run ends."}
      onClick={() => void act("resume")}
    >
      Resume
    </button>
  );
}

interface HeadProps {
  run: RunDetails;
  now: number;
  problem: string;
  act: LiveRun["act"];
}

function RunHead({ run, now, problem, act }: HeadProps) {
  const ended = hasEnded(run.status);
  const start = run.started_at ? Date.parse(run.started_at) : null;
  const length = start === null ? null : (run.finished_at ? Date.parse(run.finished_at) : now) - start;
  const states = Object.values(run.steps);
  const number = (state: string) => states.filter(({ status }) => status === state).length;
  const failed = number("failed");
  const may = states.filter(({ reachable }) => reachable === "may").length;
  const parts = [
    `${count(number("succeeded"))} done`,
    failed ? `${count(failed)} failed` : "",
    number("waiting") ? `${count(number("waiting"))} waiting` : "",
    may && !ended ? `${count(may)} may run` : "",
  ];
  const isPaused = run.status === "paused";
  return (
    <header class="head">
      <nav class="trail" aria-label="Place">
        <a href={linkTo(["runs"])}>Runs</a>
        <span aria-hidden="true">›</span>
        <a href={linkTo(["runs"], new URLSearchParams({ playbook: run.playbook }))}>
          <bdi>{printable(run.playbook)}</bdi>
        </a>
        <span aria-hidden="true">›</span>
        <code>{shortId(run.workflow_id)}</code>
      </nav>
      <div class="title">
        <h1>
          <bdi>{printable(run.playbook)}</bdi>
        </h1>
        {run.version && <span class="tag">{printable(run.version)}</span>}
        <State state={run.status} />
        {failed > 0 && run.status !== "failed" && <span class="state bad">{plural(failed, "step")} failed</span>}
        <div class="actions">
          <button type="button" onClick={() => void navigator.clipboard.writeText(location.href)}>
            Copy link
          </button>
          <button type="button" disabled={ended} title={ended ? "The run has ended." : undefined} onClick={() => void act("cancel")}>
            Cancel
          </button>
          <button
            type="button"
            disabled={ended || isPaused}
            title={ended ? "The run has ended." : isPaused ? "The run is paused." : undefined}
            onClick={() => void act("pause")}
          >
            Pause
          </button>
          <MainAction run={run} act={act} />
        </div>
      </div>
      <p class="facts">
        <span>
          Started <Time at={run.started_at ?? run.created_at} />
        </span>
        <span>{`For ${duration(length)}`}</span>
        <span>{run.work_ms == null ? "" : `${duration(run.work_ms)} work`}</span>
        <span>{run.waiting_ms == null ? "" : `${duration(run.waiting_ms)} waiting`}</span>
        <span>{run.queued_ms == null ? "" : `${duration(run.queued_ms)} queued`}</span>
        <span>{`Steps: ${parts.filter(Boolean).join(", ")}`}</span>
        {run.parent && (
          <span>
            Started by <a href={linkTo(["runs", run.parent])}>{shortId(run.parent)}</a>
          </span>
        )}
        {run.resumed_from && (
          <span>
            Continues <a href={linkTo(["runs", run.resumed_from])}>{shortId(run.resumed_from)}</a>
          </span>
        )}
        {run.tags.map((tag) => (
          <bdi class="tag" key={tag}>
            {printable(tag)}
          </bdi>
        ))}
      </p>
      <p class={problem ? "headline problem" : "headline"} role={problem ? "alert" : undefined}>
        <bdi>{printable(problem || (run.headline ?? ""))}</bdi>
      </p>
    </header>
  );
}
