/** Signs of states. They differ in shape, and always stand with the word. */

const OCTAGON = "M4.1 0H9.9L14 4.1V9.9L9.9 14H4.1L0 9.9V4.1Z";

/** A part of a sign: how it is drawn, and its path. A sign has the same elements in all states, so that one is drawn fast over another. */
type Part = readonly ["fill" | "tick" | "ring" | "ring dashed" | "line", string];

interface Sign {
  word: string;
  tone: "ok" | "bad" | "wait" | "live" | "quiet";
  parts: readonly Part[];
}

const circle = (radius: number) => `M${7 + radius} 7A${radius} ${radius} 0 1 1 ${7 - radius} 7A${radius} ${radius} 0 1 1 ${7 + radius} 7Z`;
const DISC: Part = ["fill", circle(7)];
const RING: Part = ["ring", circle(6)];
const ringWith = (lines: string): Part => ["ring", circle(6) + lines];
/** Holes run against the outline around them. So the most frequent signs have one part, and many of them are drawn fast. */
const TICK_HOLE = "M3.1 7.4L6.1 10.6L10.9 4.9L9.7 3.9L6.1 8.2L4.2 6.3Z";
const CROSS_HOLE = "M7 5.9L4.8 3.7L3.7 4.8L5.9 7L3.7 9.2L4.8 10.3L7 8.1L9.2 10.3L10.3 9.2L8.1 7L10.3 4.8L9.2 3.7Z";
const BANG_HOLE = "M6.2 4.5V9.1H7.8V4.5ZM6.2 10.3V11.6H7.8V10.3Z";

const SIGNS: Record<string, Sign> = {
  succeeded: { word: "Succeeded", tone: "ok", parts: [["fill", circle(7) + TICK_HOLE]] },
  failed: { word: "Failed", tone: "bad", parts: [["fill", OCTAGON + CROSS_HOLE]] },
  completed_with_errors: { word: "With errors", tone: "wait", parts: [["fill", `M7 .5L13.8 13H.2Z${BANG_HOLE}`]] },
  running: { word: "Running", tone: "live", parts: [RING, ["fill", "M5.2 4L10 7 5.2 10Z"]] },
  waiting: { word: "Waiting", tone: "wait", parts: [ringWith("M7 4V7.3L9.2 8.6")] },
  paused: { word: "Paused", tone: "wait", parts: [ringWith("M5.5 4.8V9.2M8.5 4.8V9.2")] },
  asks: { word: "Waits for a person", tone: "wait", parts: [["line", "M9.8 4A2.8 2.8 0 1 1 4.2 4A2.8 2.8 0 1 1 9.8 4Z"], ["line", "M1.6 13V12A4.2 4.2 0 0 1 5.8 8.6H8.2A4.2 4.2 0 0 1 12.4 12V13"]] },
  join: { word: "Waits at a join", tone: "wait", parts: [["line", "M1.5 1.5L7 7.5 12.5 1.5M7 7.5V13"]] },
  retrying: { word: "Retrying", tone: "wait", parts: [["line", "M12.4 5.2A5.7 5.7 0 1 0 12.4 8.8"], ["fill", "M14 1.6V6.4H9.6Z"]] },
  queued: { word: "Queued", tone: "quiet", parts: [ringWith("M4.4 7h.01M7 7h.01M9.6 7h.01")] },
  cancelled: { word: "Cancelled", tone: "quiet", parts: [ringWith("M3 11L11 3")] },
  skipped: { word: "Skipped", tone: "quiet", parts: [ringWith("M4.5 7H9.5")] },
  timed_out: { word: "Timed out", tone: "bad", parts: [["line", "M3.5 1.5H10.5M3.5 12.5H10.5M4.2 1.5V4L7 7 4.2 10V12.5M9.8 1.5V4L7 7 9.8 10V12.5"]] },
  missed: { word: "Missed", tone: "wait", parts: [ringWith("M4.6 4.6L9.4 9.4M4.6 9.4L9.4 4.6")] },
  may: { word: "May run", tone: "quiet", parts: [["ring dashed", RING[1]]] },
  added: { word: "Added", tone: "ok", parts: [DISC, ["tick", "M7 3.5V10.5M3.5 7H10.5"]] },
  removed: { word: "Removed", tone: "bad", parts: [DISC, ["tick", "M3.5 7H10.5"]] },
  changed: { word: "Changed", tone: "wait", parts: [DISC, ["tick", "M3.4 8C4.6 5.4 6 5.8 7 7S9.4 8.6 10.6 6"]] },
  never: { word: "Will not run", tone: "quiet", parts: [["line", "M3.5 7H10.5"]] },
};
SIGNS["pending"] = SIGNS["queued"] as Sign;

export function wordOf(state: string): string {
  return SIGNS[state]?.word ?? state;
}

export function toneOf(state: string): string {
  return SIGNS[state]?.tone ?? "quiet";
}

/** Return how each part of the sign of a state is drawn, and its path, in an SVG of 14 units. */
export function partsOf(state: string): readonly Part[] {
  return SIGNS[state]?.parts ?? [];
}

/** The sign of a state as SVG, 14 units wide, without its word. */
export function StateSign({ state, x, y }: { state: string; x?: number; y?: number }) {
  return (
    <svg class={`sign ${toneOf(state)}`} width="14" height="14" viewBox="0 0 14 14" x={x} y={y} aria-hidden="true">
      {partsOf(state).map(([kind, path], index) => (
        <path key={index} class={kind} d={path} />
      ))}
    </svg>
  );
}

/** The sign of a state with its word. */
export function State({ state }: { state: string }) {
  return (
    <span class={`state ${toneOf(state)}`}>
      <StateSign state={state} />
      {wordOf(state)}
    </span>
  );
}
