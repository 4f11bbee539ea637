/** Actions on the selected runs. The footer is always there, so that nothing moves. */

import { useState } from "preact/hooks";

import { count, plural } from "../format";
import { describe, useShared } from "../parts/context";
import type { RunRows } from "./store";

interface BulkReport {
  accepted: number;
  skipped: { workflow_id: string; detail: string }[];
}

interface Props {
  rows: RunRows;
  selected: ReadonlySet<string>;
  onSelect: (ids: ReadonlySet<string>) => void;
}

export const MAX_SELECTED = 100;

export function BulkBar({ rows, selected, onSelect }: Props) {
  const { service } = useShared();
  const [report, setReport] = useState("");
  const [isSure, setIsSure] = useState(false);
  const ids = [...selected];
  const act = async (action: "cancel" | "resume" | "delete") => {
    setReport("");
    setIsSure(false);
    try {
      const done = await service.read<BulkReport>(`/workflows/bulk/${action}`, { method: "POST", body: { ids } });
      setReport(words(done));
      onSelect(new Set(done.skipped.map(({ workflow_id }) => workflow_id)));
      await rows.poll();
    } catch (error) {
      setReport(describe(error));
    }
  };
  const isTooMany = ids.length > MAX_SELECTED;
  const off = !ids.length || isTooMany;
  const reason = isTooMany ? `At most ${MAX_SELECTED} runs at once` : !ids.length ? "Select runs first" : "";
  return (
    <footer class="bulk">
      <span>{ids.length ? `${count(ids.length)} selected` : "None selected"}</span>
      <button type="button" disabled={off} title={reason} onClick={() => void act("resume")}>
        Resume
      </button>
      <button type="button" disabled={off} title={reason} onClick={() => void act("cancel")}>
        Cancel
      </button>
      <button type="button" disabled={!ids.length} title={reason} onClick={() => void navigator.clipboard.writeText(ids.join("\n"))}>
        Copy ids
      </button>
      {isSure ? (
        <button type="button" class="bad" onClick={() => void act("delete")}>
          Delete {plural(ids.length, "run")} for ever
        </button>
      ) : (
        <button type="button" disabled={off} title={reason} onClick={() => setIsSure(true)}>
          Delete
        </button>
      )}
      <output>{report}</output>
    </footer>
  );
}

function words({ accepted, skipped }: BulkReport): string {
  const first = skipped[0];
  const refused = first ? `, ${count(skipped.length)} refused: ${first.detail}` : "";
  return `${count(accepted)} done${refused}`;
}

