/** A row for each step, also for those that have not started, so that no row moves. Bars share an axis of time. */

import { useMemo } from "preact/hooks";

import type { HistoryEntry, RunDetails } from "../answers";
import { clock, duration } from "../format";
import { StateSign, wordOf } from "../parts/state";
import { printable } from "../parts/value";

const IDLE_SHARE = 0.2;
const FOLDED = 0.05;

interface Bar {
  start: number;
  end: number | null;
  kind: "work" | "failed" | "waiting";
}

/** The bars of each step, from the history of a run. */
export function readBars(events: readonly HistoryEntry[]): Map<string, Bar[]> {
  const bars = new Map<string, Bar[]>();
  const open = new Map<string, Bar>();
  for (const { type, step, visit, at } of events) {
    if (!step || step.startsWith("@")) continue;
    const key = `${visit} ${step}`;
    const time = Date.parse(at);
    const begin = (kind: Bar["kind"]) => {
      const bar: Bar = { start: time, end: null, kind };
      open.set(key, bar);
      bars.set(step, [...(bars.get(step) ?? []), bar]);
    };
    const close = (kind?: Bar["kind"]) => {
      const bar = open.get(key);
      if (!bar) return;
      bar.end = time;
      if (kind) bar.kind = kind;
      open.delete(key);
    };
    if (type === "step.started") {
      close();
      begin("work");
    } else if (type === "step.waiting") {
      close();
      begin("waiting");
    } else if (type === "step.completed") close();
    else if (type === "step.failed" || type === "step.retrying") close("failed");
  }
  return bars;
}

/** A scale from time to a share of the width. Spans without work shrink if `folds`. */
export function makeScale(bars: Iterable<Bar[]>, start: number, end: number, folds: boolean): (time: number) => number {
  const spans = [...bars].flat().filter(({ kind }) => kind !== "waiting");
  const edges: [number, number][] = [[start, start], ...spans.map((bar): [number, number] => [bar.start, bar.end ?? end]), [end, end]];
  edges.sort((a, b) => a[0] - b[0]);
  const idle: [number, number][] = [];
  let busy = start;
  for (const [from, to] of edges) {
    if (folds && from - busy > IDLE_SHARE * (end - start)) idle.push([busy, from]);
    busy = Math.max(busy, to);
  }
  const removed = (time: number) => idle.reduce((sum, [from, to]) => sum + Math.max(Math.min(time, to) - from, 0), 0);
  const total = Math.max(end - start - removed(end), 1);
  const share = 1 - FOLDED * idle.length;
  const folded = (time: number) => idle.reduce((sum, [from, to]) => sum + FOLDED * Math.min(Math.max((time - from) / (to - from), 0), 1), 0);
  return (time) => ((time - start - removed(time)) / total) * share + folded(time);
}

interface Props {
  run: RunDetails;
  events: readonly HistoryEntry[];
  now: number;
  folds: boolean;
  onFold: (folds: boolean) => void;
  chosen: string | null;
  onChoose: (step: string) => void;
}

export function Timeline({ run, events, now, folds, onFold, chosen, onChoose }: Props) {
  const bars = useMemo(() => readBars(events), [events]);
  const start = Date.parse(run.started_at ?? run.created_at);
  const end = Math.max(run.finished_at ? Date.parse(run.finished_at) : now, start + 1);
  const scale = makeScale(bars.values(), start, end, folds);
  return (
    <section class="timeline" aria-label="Timeline">
      <header>
        <h2>Timeline</h2>
        <label>
          <input type="checkbox" checked={folds} onChange={(event) => onFold(event.currentTarget.checked)} /> Fold idle time
        </label>
        <span>
          {clock(start)} to {run.finished_at ? clock(end) : "now"}
        </span>
      </header>
      <ul>
        {Object.entries(run.steps).map(([name, report]) => {
          const own = bars.get(name) ?? [];
          const state = own.length ? report.status : (report.reachable ?? "may");
          return (
            <li key={name} class={`${name === chosen ? "chosen " : ""}${state}`}>
              <button type="button" onClick={() => onChoose(name)}>
                <StateSign state={state} />
                <bdi>{printable(name)}</bdi>
              </button>
              <Bars bars={own} scale={scale} end={end} />
              <span>{own.length ? duration(total(own, end)) : wordOf(state).toLowerCase()}</span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Bars({ bars, scale, end }: { bars: Bar[]; scale: (time: number) => number; end: number }) {
  return (
    <svg viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true">
      {bars.map((bar, index) => {
        const x = scale(bar.start) * 1000;
        const width = Math.max(scale(bar.end ?? end) * 1000 - x, 3);
        return <rect key={index} class={bar.kind} x={Math.min(x, 997)} y="5" width={width} height="10" />;
      })}
    </svg>
  );
}

function total(bars: Bar[], end: number): number {
  const first = bars[0];
  const last = bars[bars.length - 1];
  return first && last ? (last.end ?? end) - first.start : 0;
}
