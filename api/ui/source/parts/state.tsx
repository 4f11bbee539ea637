/** Signs of states. They differ in shape, and always stand with the word. */

const OCTAGON = "M4.1 0H9.9L14 4.1V9.9L9.9 14H4.1L0 9.9V4.1Z";
const CROSS = "M4.6 4.6L9.4 9.4M4.6 9.4L9.4 4.6";

interface Sign {
  word: string;
  tone: "ok" | "bad" | "wait" | "live" | "quiet";
  shape: () => preact.JSX.Element;
}

const ring = (inside: preact.JSX.Element) => (
  <>
    <circle class="ring" cx="7" cy="7" r="6" />
    {inside}
  </>
);

const SIGNS: Record<string, Sign> = {
  succeeded: { word: "Succeeded", tone: "ok", shape: () => <><circle class="fill" cx="7" cy="7" r="7" /><path class="tick" d="M4 7.2L6.1 9.4 10 4.8" /></> },
  failed: { word: "Failed", tone: "bad", shape: () => <><path class="fill" d={OCTAGON} /><path class="tick" d={CROSS} /></> },
  completed_with_errors: { word: "With errors", tone: "wait", shape: () => <><path class="fill" d="M7 .5L13.8 13H.2Z" /><path class="tick" d="M7 5V8.6M7 10.9V11" /></> },
  running: { word: "Running", tone: "live", shape: () => ring(<path class="fill" d="M5.2 4L10 7 5.2 10Z" />) },
  waiting: { word: "Waiting", tone: "wait", shape: () => ring(<path class="line" d="M7 4V7.3L9.2 8.6" />) },
  paused: { word: "Paused", tone: "wait", shape: () => ring(<path class="line" d="M5.5 4.8V9.2M8.5 4.8V9.2" />) },
  asks: { word: "Waits for a person", tone: "wait", shape: () => <><circle class="line" cx="7" cy="4" r="2.8" /><path class="line" d="M1.6 13V12A4.2 4.2 0 0 1 5.8 8.6H8.2A4.2 4.2 0 0 1 12.4 12V13" /></> },
  join: { word: "Waits at a join", tone: "wait", shape: () => <path class="line" d="M1.5 1.5L7 7.5 12.5 1.5M7 7.5V13" /> },
  retrying: { word: "Retrying", tone: "wait", shape: () => <><path class="line" d="M12.4 5.2A5.7 5.7 0 1 0 12.4 8.8" /><path class="fill" d="M14 1.6V6.4H9.6Z" /></> },
  queued: { word: "Queued", tone: "quiet", shape: () => ring(<path class="line" d="M4.4 7h.01M7 7h.01M9.6 7h.01" />) },
  cancelled: { word: "Cancelled", tone: "quiet", shape: () => ring(<path class="line" d="M3 11L11 3" />) },
  timed_out: { word: "Timed out", tone: "bad", shape: () => <path class="line" d="M3.5 1.5H10.5M3.5 12.5H10.5M4.2 1.5V4L7 7 4.2 10V12.5M9.8 1.5V4L7 7 9.8 10V12.5" /> },
  may: { word: "May run", tone: "quiet", shape: () => <circle class="ring dashed" cx="7" cy="7" r="6" /> },
  never: { word: "Will not run", tone: "quiet", shape: () => <path class="line" d="M3.5 7H10.5" /> },
};
SIGNS["pending"] = SIGNS["queued"] as Sign;

export function wordOf(state: string): string {
  return SIGNS[state]?.word ?? state;
}

export function toneOf(state: string): string {
  return SIGNS[state]?.tone ?? "quiet";
}

/** The sign of a state as SVG, 14 units wide, without its word. */
export function StateSign({ state, x, y }: { state: string; x?: number; y?: number }) {
  const sign = SIGNS[state];
  return (
    <svg class={`sign ${toneOf(state)}`} width="14" height="14" viewBox="0 0 14 14" x={x} y={y} aria-hidden="true">
      {sign?.shape()}
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
