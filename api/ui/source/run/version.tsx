/** Let a run continue in another version of its playbook. The service says before whether it may. */

import { useState } from "preact/hooks";

import { linkTo } from "../address";
import { hasEnded, type Page, type RepeatedStep, type ResumePreview, type RunDetails, type Verdict, type VerdictReason } from "../answers";
import { Action } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { useDialog } from "../parts/dialog";
import { useRequestKey } from "../parts/request_key";
import { printable } from "../parts/value";
import { playbookPath } from "../playbooks/addresses";
import type { PlaybookEntry } from "../playbooks/answers";
import { Problem } from "../service";
import type { LiveRun } from "./live";
import { RepeatedSteps } from "./preview";
import { SwitchFields, useSwitchValues } from "./values";

/** The code of the reason that steps are being performed, and how long a request may hold the run until they have ended. */
const IS_PERFORMED = "NC101";
const HOLD_SECONDS = 60;

interface Props {
  run: RunDetails;
  reload: LiveRun["reload"];
  onClose: () => void;
}

/** The answer of the service for what was chosen and typed. */
interface Judged {
  request: string;
  verdict: Verdict | null;
  problem: string;
  steps: readonly RepeatedStep[];
}

export function OtherVersion({ run, reload, onClose }: Props) {
  const { service } = useShared();
  const dialog = useDialog();
  const { data, problem } = useAnswer<Page<PlaybookEntry>>(`${playbookPath(run.playbook)}/versions`);
  const [chosen, setChosen] = useState<string | null>(null);
  const [holds, setHolds] = useState(false);
  const [judged, setJudged] = useState<Judged | null>(null);
  const values = useSwitchValues();
  const requests = useRequestKey();
  const ended = hasEnded(run.status);
  const versions = (data?.items ?? []).map(({ version }) => version).filter((version) => version !== run.version);
  const version = chosen ?? versions[0] ?? "";
  const body = { playbook: { name: run.playbook, version }, set: values.given, map: values.renamed };
  const request = JSON.stringify(body);
  const current = judged?.request === request ? judged : null;
  const why = values.mistake || (version ? "" : "there is no other version");
  const post = async (changes: object, headers = {}): Promise<ResumePreview | null> => {
    try {
      const path = `/workflows/${run.workflow_id}/resume`;
      const answer = await service.read<ResumePreview>(path, { method: "POST", body: { ...body, ...changes }, headers });
      return answer;
    } catch (error) {
      const verdict = error instanceof Problem ? error.verdict : null;
      if (verdict) values.learn(verdict.required);
      setJudged({ request, verdict, problem: verdict ? "" : describe(error), steps: [] });
      return null;
    }
  };
  const check = async () => {
    const preview = await post({ dry_run: true });
    if (preview) setJudged({ request, verdict: preview.verdict, problem: "", steps: preview.steps });
  };
  const send = async () => {
    const isDone = await post(holds && !ended ? { wait: HOLD_SECONDS } : {}, { "Idempotency-Key": requests.keyOf(request) });
    if (!isDone) return;
    requests.forget();
    dialog.current?.close();
    await reload();
  };
  return (
    <dialog ref={dialog} aria-label="Continue in another version" class="correction" onClose={onClose}>
      <h2>Continue in another version</h2>
      <p>
        The run goes on in another version. What was done is not done again.{" "}
        <a href={linkTo(["playbooks", run.playbook, "edit"])}>Edit the playbook</a>
      </p>
      {problem && <p class="problem">{problem}</p>}
      <label>
        Version{" "}
        <select
          aria-label="Version"
          value={version}
          onChange={(event) => {
            setChosen(event.currentTarget.value);
            values.forget();
          }}
        >
          {versions.map((name) => (
            <option key={name} value={name}>
              {printable(name)}
            </option>
          ))}
        </select>
      </label>
      <SwitchFields {...values.fields} />
      <label>
        <input type="checkbox" checked={holds} disabled={ended} onChange={(event) => setHolds(event.currentTarget.checked)} /> Hold the run until its
        running steps have ended, up to {HOLD_SECONDS} seconds
      </label>
      <div class="verdict" role="region" aria-label="Verdict" aria-live="polite" tabIndex={0}>
        {values.mistake ? <p class="bad">{printable(values.mistake)}</p> : <Answer judged={current} holds={holds} />}
      </div>
      <p class="actions">
        <Action reason={why} onAct={check}>
          Check
        </Action>
        <Action isPrimary reason={why || (mayContinue(current, holds) ? "" : "check first whether the run may continue")} onAct={send}>
          Continue
        </Action>
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </p>
    </dialog>
  );
}

/** Return whether the run may continue, or does so as soon as its running steps have ended. */
function mayContinue(judged: Judged | null, holds: boolean): boolean {
  const verdict = judged?.verdict;
  if (!verdict) return false;
  return verdict.may_continue || (holds && !verdict.required.length && verdict.reasons.every(({ code }) => code === IS_PERFORMED));
}

function Answer({ judged, holds }: { judged: Judged | null; holds: boolean }) {
  if (judged === null) return <>Check whether the run may continue in this version.</>;
  if (judged.verdict === null) return <p class="bad">{printable(judged.problem)}</p>;
  const { may_continue: may, reasons, required, notices } = judged.verdict;
  return (
    <>
      <p class={may ? "" : "bad"}>
        {may
          ? "The run may continue."
          : mayContinue(judged, holds)
            ? "The run is held until its running steps have ended, and is judged then."
            : reasons.length
              ? "The run cannot continue in this version."
              : "The run may continue as soon as these values are given."}
      </p>
      {may && <RepeatedSteps steps={judged.steps} />}
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
