/** Actions on the selected runs. The footer is always there, so that nothing moves. */

import { useState } from "preact/hooks";

import { go, linkTo } from "../address";
import type { BulkReport } from "../answers";
import { count } from "../format";
import { Action, CertainAction } from "../parts/action";
import { describe, useShared } from "../parts/context";
import type { RunRows } from "./store";

interface Props {
  rows: RunRows;
  selected: ReadonlySet<string>;
  onSelect: (ids: ReadonlySet<string>) => void;
}

export const MAX_SELECTED = 100;

export function BulkBar({ rows, selected, onSelect }: Props) {
  const { service } = useShared();
  const [report, setReport] = useState("");
  const ids = [...selected];
  const act = async (action: "cancel" | "resume" | "delete") => {
    setReport("");
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
  const reason = isTooMany ? `at most ${MAX_SELECTED} runs at once` : !ids.length ? "select runs first" : "";
  return (
    <footer class="bulk">
      <span>{ids.length ? `${count(ids.length)} selected` : "None selected"}</span>
      <Action reason={reason} onAct={() => act("resume")}>
        Resume
      </Action>
      <Action reason={reason} onAct={() => act("cancel")}>
        Cancel
      </Action>
      <Action changes={false} reason={ids.length ? "" : reason} onAct={() => navigator.clipboard.writeText(ids.join("\n"))}>
        Copy ids
      </Action>
      <Action changes={false} reason={ids.length === 2 ? "" : "select two runs"} onAct={() => go(compareLink(ids))}>
        Compare
      </Action>
      <CertainAction word="Delete" certain={`Delete ${count(ids.length)} for ever`} reason={reason} onAct={() => act("delete")} />
      <output>{report}</output>
    </footer>
  );
}

function compareLink([a = "", b = ""]: readonly string[]): string {
  return linkTo(["compare"], new URLSearchParams({ a, b }));
}

function words({ accepted, skipped }: BulkReport): string {
  const first = skipped[0];
  const refused = first ? `, ${count(skipped.length)} refused: ${first.detail}` : "";
  return `${count(accepted)} done${refused}`;
}

