/** Buttons that do a step of an ended run again, or skip it. */

import { useState } from "preact/hooks";

import { hasEnded, type RunDetails } from "../answers";
import { Action } from "../parts/action";
import { lazy } from "../parts/lazy";
import type { Repetition } from "./again";
import type { LiveRun } from "./live";

const RepetitionDialog = lazy(async () => (await import("./again")).RepetitionDialog);

interface RepeatProps {
  run: RunDetails;
  step: string;
  canSkip: boolean;
  reload: LiveRun["reload"];
}

export function RepeatStep({ run, step, canSkip, reload }: RepeatProps) {
  const [repetition, setRepetition] = useState<Repetition | null>(null);
  const reason = refusesRepetition(run);
  return (
    <>
      <Action reason={reason} onAct={() => setRepetition({ from: step })}>
        Run again from this step
      </Action>
      {canSkip && (
        <Action reason={reason} onAct={() => setRepetition({ skip: step })}>
          Skip this step with a result
        </Action>
      )}
      {repetition && <RepetitionDialog run={run} repetition={repetition} reload={reload} onClose={() => setRepetition(null)} />}
    </>
  );
}

interface StartProps {
  run: RunDetails;
  /** The event after which the new run starts; empty in the present. */
  at: string;
  reload: LiveRun["reload"];
}

/** A button next to the slider: it starts a new run from the state that is shown. */
export function StartFromHere({ run, at, reload }: StartProps) {
  const [isOpen, setIsOpen] = useState(false);
  return (
    <>
      <Action reason={refusesRepetition(run) || (at ? "" : "choose an earlier event first")} onAct={() => setIsOpen(true)}>
        <span class="long">Start a new run from here</span>
        <span class="short">New run</span>
      </Action>
      {isOpen && <RepetitionDialog run={run} repetition={{ at }} reload={reload} onClose={() => setIsOpen(false)} />}
    </>
  );
}

/** Return why work of a run cannot be done again now. Empty: it can. */
function refusesRepetition(run: RunDetails): string {
  if (run.moment) return "this is an earlier state";
  return hasEnded(run.status) ? "" : "after the run ends";
}
