/** The place in the history at which a run is shown: a slider with a stop for each event, and the way back to the present. */

import { useEffect, useRef } from "preact/hooks";

import { readAddress, setParams } from "../address";
import type { HistoryEntry, RunDetails } from "../answers";
import { clock, count } from "../format";
import { useAnswer } from "../parts/context";
import { State } from "../parts/state";
import { printable } from "../parts/value";
import { query } from "../service";
import { keepGraph, type LiveRun } from "./live";
import { StartFromHere } from "./repeat";

export interface Travel {
  /** The event in the address: its number from 1, or its id. Empty in the present. */
  at: string;
  /** The run after this event, or after the one before while it is read. */
  past: RunDetails | null;
  problem: string;
}

/** Read a run as it was after the event in the address. `open` are the steps whose groups are open in the graph. */
export function useTravel(id: string, at: string, open: string[]): Travel {
  const last = useRef<RunDetails | null>(null);
  const { data, problem } = useAnswer<RunDetails>(at ? `/workflows/${id}${query({ include: "graph", open, at })}` : null, { keeps: true });
  if (data && data !== last.current) last.current = keepGraph(last.current, data);
  return { at, past: at ? last.current : null, problem: at ? problem : "" };
}

/** Show the run after an event, or as it is now. The first step into the past is an entry of the browser's history. */
export function travelTo(at: number | null): void {
  setParams({ at: at === null ? null : String(at) }, { replace: readAddress().params.has("at") });
}

interface Props extends Travel, Pick<LiveRun, "reload"> {
  run: RunDetails;
  events: readonly HistoryEntry[];
}

export function HistorySlider({ at, past, problem, run, events, reload }: Props) {
  const slider = useRef<HTMLInputElement>(null);
  const last = Math.max(events.length, 1);
  const number = placeOf(at, events);
  const event = events[number - 1];
  const words = event ? `Event ${count(number)} of ${count(last)}: ${[event.type, event.step ?? ""].join(" ").trim()}, ${clock(event.at)}` : "";
  useEffect(() => {
    if (slider.current) slider.current.value = String(number);
  }, [number, last]);
  return (
    <div class={at ? "travel past" : "travel"} role="group" aria-label="History">
      <input
        ref={slider}
        type="range"
        aria-label="Event"
        aria-valuetext={printable(words)}
        min="1"
        max={last}
        disabled={!events.length}
        onInput={({ currentTarget: { value } }) => travelTo(Number(value) < last ? Number(value) : null)}
      />
      <State state={(past ?? run).status} />
      <p class={problem ? "problem" : ""} role={problem ? "alert" : undefined}>
        <bdi>{printable(problem || words)}</bdi>
      </p>
      <StartFromHere run={run} at={at} reload={reload} />
      <button type="button" title="Back to the present (Esc)" disabled={!at} onClick={() => travelTo(null)}>
        {run.finished_at ? "End" : "Live"}
      </button>
    </div>
  );
}

/** Return the number of the event in the address; that of the last event in the present. */
function placeOf(at: string, events: readonly HistoryEntry[]): number {
  if (!at) return events.length;
  return /^\d+$/.test(at) ? Number(at) : events.findIndex(({ id }) => id === at) + 1;
}
