/** The way back from a switch to another version, as long as the run has not gone on since. */

import { useState } from "preact/hooks";

import { hasEnded, type BulkReport, type HistoryEntry, type RunDetails } from "../answers";
import { Action } from "../parts/action";
import { announce } from "../parts/announce";
import { describe, useShared } from "../parts/context";
import { printable } from "../parts/value";
import type { LiveRun } from "./live";

const HARMLESS = new Set(["workflow.paused", "workflow.unpaused", "notification.failed"]);

/** Return the event of the switch that the run may still return from, or null. */
export function findUndoable(run: RunDetails, events: readonly HistoryEntry[]): HistoryEntry | null {
  const event = events.findLast(({ type }) => !HARMLESS.has(type));
  if (hasEnded(run.status) || event?.type !== "workflow.migrated") return null;
  return event.payload["undo"] && !event.payload["undoes"] ? event : null;
}

interface Props extends Pick<LiveRun, "history" | "reload"> {
  run: RunDetails;
}

export function SwitchUndo({ run, history, reload }: Props) {
  const { service } = useShared();
  const [refusal, setRefusal] = useState({ event: "", text: "" });
  const event = findUndoable(run, history.events);
  const undo = async () => {
    const body = { undo: true, ids: [run.workflow_id] };
    try {
      const { skipped } = await service.read<BulkReport>("/workflows/bulk/migrate", { method: "POST", body });
      if (skipped[0]) setRefusal({ event: lastSwitch(history.events), text: skipped[0].detail });
      else announce("The run is in the version that it had before.");
      await reload();
    } catch (error) {
      setRefusal({ event: lastSwitch(history.events), text: describe(error) });
    }
  };
  const isRefused = refusal.text !== "" && refusal.event === lastSwitch(history.events);
  if (isRefused) {
    return (
      <span class="bad" role="alert">
        {printable(refusal.text)}
      </span>
    );
  }
  if (!event) return null;
  return (
    <>
      <span>
        Continues in {wordsOf(event.payload["to_version"])} instead of {wordsOf(event.payload["from_version"])}.
      </span>
      <Action class="link" onAct={undo}>
        Undo
      </Action>
    </>
  );
}

function lastSwitch(events: readonly HistoryEntry[]): string {
  return events.findLast(({ type }) => type === "workflow.migrated")?.id ?? "";
}

function wordsOf(version: unknown): string {
  return typeof version === "string" ? `version ${printable(version)}` : "a version without a name";
}
