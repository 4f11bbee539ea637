/** Resume a run in another version of its playbook. The service says before whether the run may continue there. */

import type { RefObject } from "preact";
import { useState } from "preact/hooks";

import { linkTo } from "../address";
import type { Page, ResumePreview, RunDetails, Verdict, VerdictReason } from "../answers";
import { plural } from "../format";
import { Action } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { useRequestKey } from "../parts/request_key";
import { printable } from "../parts/value";
import { playbookPath } from "../playbooks/addresses";
import type { PlaybookEntry } from "../playbooks/answers";
import { Problem } from "../service";
import type { LiveRun } from "./live";

interface Props {
  run: RunDetails;
  dialog: RefObject<HTMLDialogElement | null>;
  /** The versions are read once the dialog is opened: a playbook need not be registered. */
  isOpen: boolean;
  act: LiveRun["act"];
}

/** The answer of the service for what was chosen and typed. */
interface Judged {
  request: string;
  verdict: Verdict | null;
  problem: string;
  steps: number;
}

export function CorrectedPlaybook({ run, dialog, isOpen, act }: Props) {
  const { service } = useShared();
  const { data, problem } = useAnswer<Page<PlaybookEntry>>(isOpen ? `${playbookPath(run.playbook)}/versions` : null);
  const [chosen, setChosen] = useState<string | null>(null);
  const [values, setValues] = useState("{}");
  const [names, setNames] = useState("{}");
  const [judged, setJudged] = useState<Judged | null>(null);
  const requests = useRequestKey();
  const versions = (data?.items ?? []).map(({ version }) => version).filter((version) => version !== run.version);
  const version = chosen ?? versions[0] ?? "";
  const [given, renamed] = [readObject(values), readObject(names)];
  const mistake = given === null || renamed === null ? "Values and names must be JSON objects." : "";
  const body = { playbook: { name: run.playbook, version }, set: given, map: renamed };
  const request = JSON.stringify(body);
  const current = judged?.request === request ? judged : null;
  const why = mistake || (version ? "" : "there is no other version");
  const check = async () => setJudged(await judge());
  const judge = async (): Promise<Judged> => {
    const path = `/workflows/${run.workflow_id}/resume`;
    try {
      const { verdict, steps } = await service.read<ResumePreview>(path, { method: "POST", body: { ...body, dry_run: true } });
      return { request, verdict, problem: "", steps: steps.length };
    } catch (error) {
      const verdict = error instanceof Problem ? error.verdict : null;
      return { request, verdict, problem: verdict ? "" : describe(error), steps: 0 };
    }
  };
  const send = async () => {
    const isDone = await act("resume", { body, headers: { "Idempotency-Key": requests.keyOf(request) } });
    if (isDone) {
      requests.forget();
      dialog.current?.close();
    } else if (judged) setJudged({ ...judged, verdict: null, problem: "The run was not resumed. The head of the page says why." });
  };
  return (
    <dialog ref={dialog} aria-label="Resume with a corrected playbook" class="correction">
      <h2>Resume with a corrected playbook</h2>
      <p>
        The run goes on in another version. What was done is not done again.{" "}
        <a href={linkTo(["playbooks", run.playbook, "edit"])}>Edit the playbook</a>
      </p>
      {problem && <p class="problem">{problem}</p>}
      <label>
        Version{" "}
        <select aria-label="Version" value={version} onChange={(event) => setChosen(event.currentTarget.value)}>
          {versions.map((name) => (
            <option key={name} value={name}>
              {printable(name)}
            </option>
          ))}
        </select>
      </label>
      <label>
        Values that the version needs, as JSON
        <textarea spellcheck={false} rows={3} value={values} onInput={(event) => setValues(event.currentTarget.value)} />
      </label>
      <label>
        New names of steps by their old ones, as JSON
        <textarea spellcheck={false} rows={2} value={names} onInput={(event) => setNames(event.currentTarget.value)} />
      </label>
      <div class="verdict" role="region" aria-label="Verdict" aria-live="polite" tabIndex={0}>
        {mistake || <Answer judged={current} />}
      </div>
      <p class="actions">
        <Action reason={why} onAct={check}>
          Check
        </Action>
        <Action isPrimary reason={why || (current?.verdict?.may_continue ? "" : "check first whether the run may continue")} onAct={send}>
          Resume
        </Action>
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </p>
    </dialog>
  );
}

function Answer({ judged }: { judged: Judged | null }) {
  if (judged === null) return <>Check whether the run may continue in this version.</>;
  if (judged.verdict === null) return <p class="bad">{printable(judged.problem)}</p>;
  const { may_continue: may, reasons, required, notices } = judged.verdict;
  return (
    <>
      <p class={may ? "" : "bad"}>
        {may
          ? `The run may continue. It does ${plural(judged.steps, "step")} again.`
          : reasons.length
            ? "The run cannot continue in this version."
            : "The run may continue as soon as these values are given."}
      </p>
      <ul>
        {required.map(({ name, type, line }) => (
          <li key={name}>
            Needs <code>{printable(name)}</code> of type {type}
            {line ? `, line ${line}` : ""}
          </li>
        ))}
        {[...reasons, ...notices].map((reason, index) => (
          <li key={index}>
            <Sentence reason={reason} />
          </li>
        ))}
      </ul>
    </>
  );
}

function Sentence({ reason: { code, message, line } }: { reason: VerdictReason }) {
  return (
    <>
      <b>{code}</b> {printable(message)}
      {line ? ` (line ${line})` : ""}
    </>
  );
}

/** Return the JSON object of a text, or null if it is none. */
export function readObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text || "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
