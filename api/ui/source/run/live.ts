/** A run that is shown while it goes on: its snapshot, and its history by stream or by cursor. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { hasEnded, type HistoryEntry, type Page, type RunDetails } from "../answers";
import { describe, useShared } from "../parts/context";
import { isSame } from "../same";
import { Problem, query, type Service } from "../service";
import { follow, type Frame } from "../stream";
import { RunHistory } from "./history";

const MAX_EVENTS = 40_000;
const EVENTS_PER_PAGE = 1000;
/** The shortest time between two reads of the snapshot, which take at most a quarter of the time. */
const PAINT_MS = 250;
/** How often a run that has ended is read: it may be resumed or deleted by others. */
const ENDED_MS = 15_000;

export interface LiveRun {
  run: RunDetails | null;
  /** The steps of open groups with which the run was read: a JSON list. */
  drawn: string;
  history: RunHistory;
  /** Changes with the history. */
  version: number;
  problem: string;
  /** When the page learned that the run was deleted. */
  deletedAt: number | null;
  act: (path: string, options?: { method?: string; body?: unknown; headers?: Record<string, string> }) => Promise<boolean>;
  /** Read the run and its new events, after it was changed in another way than by `act`. */
  reload: () => Promise<void>;
}

/** Read a run and follow it. `open` is a JSON list of steps whose groups are open in the graph. */
export function useRun(id: string, open: string): LiveRun {
  const { service, setConnection } = useShared();
  const [run, setRun] = useState<RunDetails | null>(null);
  const [drawn, setDrawn] = useState("[]");
  const [version, setVersion] = useState(0);
  const [problem, setProblem] = useState("");
  const [deletedAt, setDeletedAt] = useState<number | null>(null);
  const [isLoaded, setIsLoaded] = useState(false);
  const history = useMemo(() => new RunHistory(), [id]);
  const control = useMemo(() => new AbortController(), [id]);
  const shown = useRef(open);
  shown.current = open;
  const read = async () => {
    const wanted = shown.current;
    const path = `/workflows/${id}${query({ include: "graph", open: JSON.parse(wanted) as string[] })}`;
    const found = await service.read<RunDetails>(path, { signal: control.signal });
    if (shown.current === wanted) {
      setRun((old) => keepGraph(old, found));
      setDrawn(wanted);
    }
    setProblem("");
  };
  const fail = (error: unknown) => {
    if (control.signal.aborted) return;
    if (error instanceof Problem && error.status === 404 && run) setDeletedAt((old) => old ?? Date.now());
    else setProblem(describe(error));
  };
  const latestFail = useRef(fail);
  latestFail.current = fail;
  const report = (error: unknown) => latestFail.current(error);
  const catchUp = async () => {
    const before = history.events.length;
    await readHistory(service, id, history, control.signal, () => setVersion((n) => n + 1));
    return history.events.length > before;
  };
  useEffect(() => {
    const start = async () => {
      await read();
      await catchUp();
      setIsLoaded(true);
    };
    start().catch(report);
    return () => control.abort();
  }, [id]);
  useEffect(() => {
    // A person may open a group while the history is read for the first time.
    if (isLoaded && drawn !== open) void read().catch(report);
  }, [open, isLoaded]);
  const isOver = run !== null && hasEnded(run.status);
  const isOpen = isLoaded && run !== null && !isOver && deletedAt === null;
  useEffect(() => {
    if (!isOpen) return;
    const following = new AbortController();
    const reader = new SnapshotReader(() => read().catch(report));
    const frames = new FrameQueue((list) => {
      for (const { event, data } of list) if (event !== "end") history.add(data as HistoryEntry);
      setVersion((n) => n + 1);
      reader.request();
    });
    const follower = {
      path: () => `/workflows/${id}/events${query({ cursor: history.last })}`,
      onFrame: (frame: Frame) => frames.add(frame),
      poll: async () => {
        await read();
        return catchUp();
      },
      onConnection: setConnection,
    };
    follow(service, follower, following.signal).catch(report);
    return () => {
      reader.stop();
      following.abort();
    };
  }, [id, isOpen]);
  useEffect(() => {
    if (!isOver || deletedAt !== null) return;
    // The snapshot may be ahead of the stream, which ends here.
    if (isLoaded) void catchUp().catch(report);
    const check = () => {
      if (!document.hidden) void read().catch(report);
    };
    const timer = setInterval(check, ENDED_MS);
    document.addEventListener("visibilitychange", check);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", check);
    };
  }, [id, isOver, isLoaded, deletedAt]);
  const act: LiveRun["act"] = async (path, { method = "POST", body = {}, headers } = {}) => {
    try {
      const address = `/workflows/${id}${path ? `/${path}` : ""}`;
      await service.read(address, { method, ...(method === "POST" ? { body } : {}), ...(headers ? { headers } : {}) });
      if (method === "DELETE") return true;
      await read();
      await catchUp();
      return true;
    } catch (error) {
      report(error);
      return false;
    }
  };
  const reload = () =>
    read()
      .then(catchUp)
      .then(() => undefined, report);
  return { run, drawn, history, version, problem, deletedAt, act, reload };
}

/** Return why a run cannot continue in another version, whatever it is. */
export function refusesVersions(run: RunDetails): string {
  if (run.moment) return "this is an earlier state";
  return run.status === "succeeded" ? "a run that succeeded is not resumed" : "";
}

/** Frames that are applied together, once for each frame of the screen. */
class FrameQueue {
  private list: Frame[] = [];

  constructor(private readonly apply: (frames: Frame[]) => void) {}

  add(frame: Frame): void {
    this.list.push(frame);
    if (this.list.length > 1) return;
    const flush = () => {
      const frames = this.list;
      this.list = [];
      this.apply(frames);
    };
    // A hidden tab has no frames.
    if (document.hidden) setTimeout(flush, PAINT_MS);
    else requestAnimationFrame(flush);
  }
}

/** Reads a snapshot after events, one at a time, and more seldom if the service is slow. */
class SnapshotReader {
  private timer = 0;
  private isReading = false;
  private isWanted = false;
  private pause: number = PAINT_MS;

  constructor(private readonly read: () => Promise<void>) {}

  request(): void {
    this.isWanted = true;
    if (this.timer || this.isReading) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      void this.run();
    }, this.pause);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = -1;
  }

  private async run(): Promise<void> {
    this.isWanted = false;
    this.isReading = true;
    const begun = performance.now();
    await this.read();
    this.isReading = false;
    this.pause = Math.max(PAINT_MS, 3 * (performance.now() - begun));
    if (this.isWanted) this.request();
  }
}

/** Add the events after the last known one, page by page, up to MAX_EVENTS. */
async function readHistory(service: Service, id: string, history: RunHistory, signal: AbortSignal, onPage: () => void): Promise<void> {
  let cursor: string | null = history.last ?? "";
  while (cursor !== null && history.events.length < MAX_EVENTS) {
    const path = `/workflows/${id}/events${query({ limit: EVENTS_PER_PAGE, cursor })}`;
    const page: Page<HistoryEntry> = await service.read(path, { signal });
    for (const entry of page.items) history.add(entry);
    if (page.items.length) onPage();
    cursor = page.items.length === EVENTS_PER_PAGE ? page.next_cursor : null;
  }
}

/** Keep the objects of edges and nodes that have not changed, so that only the others are drawn again. */
export function keepGraph(old: RunDetails | null, found: RunDetails): RunDetails {
  if (!old?.graph || !found.graph) return found;
  const same = <T,>(before: T[], after: T[]) => {
    const kept = after.map((item, index) => (isSame(item, before[index]) ? (before[index] as T) : item));
    return kept.length === before.length && kept.every((item, index) => item === before[index]) ? before : kept;
  };
  const nodes = same(old.graph.nodes, found.graph.nodes);
  const edges = same(old.graph.edges, found.graph.edges);
  const { width, height } = found.graph;
  const isKept = nodes === old.graph.nodes && edges === old.graph.edges && width === old.graph.width && height === old.graph.height;
  return { ...found, graph: isKept ? old.graph : { ...found.graph, nodes, edges } };
}
