/** Resume a run with a corrected input. Only members that were changed are sent: the service keeps the others. */

import type { RefObject } from "preact";
import { useState } from "preact/hooks";

import { linkTo } from "../address";
import type { RunDetails } from "../answers";
import { Action } from "../parts/action";
import { useAnswer } from "../parts/context";
import { useRequestKey } from "../parts/request_key";
import type { LiveRun } from "./live";

interface Props {
  run: RunDetails;
  dialog: RefObject<HTMLDialogElement | null>;
  act: LiveRun["act"];
}

export function CorrectedInput({ run, dialog, act }: Props) {
  const { data, problem } = useAnswer<{ input: Record<string, unknown> }>(`/workflows/${run.workflow_id}/input`);
  const [typed, setTyped] = useState<string | null>(null);
  const [failure, setFailure] = useState("");
  const requests = useRequestKey();
  const text = typed ?? (data ? JSON.stringify(data.input, null, 2) : "");
  const { changes, mistake } = readChanges(text, data?.input ?? {});
  const send = async () => {
    setFailure("");
    const body = { input: changes };
    const isDone = await act("resume", { body, headers: { "Idempotency-Key": requests.keyOf(JSON.stringify(body)) } });
    if (isDone) {
      requests.forget();
      dialog.current?.close();
    } else setFailure("The run was not resumed. The head of the page says why.");
  };
  return (
    <dialog ref={dialog} aria-label="Resume with corrected input" class="correction">
      <h2>Resume with corrected input</h2>
      <p>
        Failed and parked steps run again with this input. Steps that have succeeded are not repeated, and keep what they
        saved.{" "}
        <a href={linkTo(["playbooks", run.playbook, "start"], new URLSearchParams({ from: run.workflow_id }))}>
          Start again from the beginning
        </a>
      </p>
      {problem && <p class="problem">{problem}</p>}
      <textarea
        aria-label="Input as JSON"
        aria-invalid={Boolean(mistake)}
        spellcheck={false}
        rows={14}
        value={text}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <p class="note" role="status">
        {mistake || failure || (Object.keys(changes).length ? `Changes ${Object.keys(changes).join(", ")}.` : "Nothing is changed yet.")}
      </p>
      <p class="actions">
        <Action isPrimary reason={mistake || (Object.keys(changes).length ? "" : "nothing is changed yet")} onAct={send}>
          Resume
        </Action>
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </p>
    </dialog>
  );
}

/** Return the members of a JSON object that differ from the input, or what is wrong with the text. */
export function readChanges(text: string, input: Record<string, unknown>): { changes: Record<string, unknown>; mistake: string } {
  let value: unknown;
  try {
    value = JSON.parse(text || "{}");
  } catch (error) {
    return { changes: {}, mistake: `This is no JSON: ${(error as Error).message}` };
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return { changes: {}, mistake: "The input must be an object." };
  const missing = Object.keys(input).filter((name) => !(name in value));
  if (missing.length) return { changes: {}, mistake: `An input cannot be removed: ${missing.join(", ")}.` };
  const changed = Object.entries(value).filter(([name, member]) => JSON.stringify(member) !== JSON.stringify(input[name]));
  return { changes: Object.fromEntries(changed), mistake: "" };
}
