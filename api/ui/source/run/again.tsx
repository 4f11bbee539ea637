/** Do work of a run again: in a new run from a step or an event of it, or in the run without a step that failed. */

import { useEffect, useRef, useState } from "preact/hooks";

import { linkTo } from "../address";
import type { ResumePreview, RunDetails, RunEntry } from "../answers";
import { shortId } from "../format";
import { Action } from "../parts/action";
import { announce } from "../parts/announce";
import { describe, useShared } from "../parts/context";
import { useDialog } from "../parts/dialog";
import { useRequestKey } from "../parts/request_key";
import { printable } from "../parts/value";
import { parseJson } from "../playbooks/exact";
import type { LiveRun } from "./live";
import { RepeatedSteps } from "./preview";
import { readObject } from "./values";

/** What is done again: after an event, from a step on, or all but a step that gets a result. */
export type Repetition = { at: string } | { from: string } | { skip: string };

interface Props {
  run: RunDetails;
  repetition: Repetition;
  reload: LiveRun["reload"];
  onClose: () => void;
}

/** The answer to a request: its dry run, or why it is refused. */
interface Judged {
  request: string;
  preview: ResumePreview | null;
  problem: string;
}

export function RepetitionDialog({ run, repetition, reload, onClose }: Props) {
  const { service } = useShared();
  const dialog = useDialog();
  const requests = useRequestKey();
  const [input, setInput] = useState("");
  const [result, setResult] = useState("");
  const [drops, setDrops] = useState(false);
  const [judged, setJudged] = useState<Judged | null>(null);
  const [started, setStarted] = useState<RunEntry | null>(null);
  const words = wordsOf(repetition);
  const { body, mistake } = readBody(repetition, { input, result, drops });
  const request = JSON.stringify(body);
  const current = judged?.request === request ? judged : null;
  const post = async <T,>(changes: object, headers = {}): Promise<T | null> => {
    try {
      const path = `/workflows/${run.workflow_id}/resume`;
      return await service.read<T>(path, { method: "POST", body: { ...body, ...changes }, headers });
    } catch (error) {
      setJudged({ request, preview: null, problem: describe(error) });
      return null;
    }
  };
  const check = async () => {
    const preview = await post<ResumePreview>({ dry_run: true });
    if (preview) setJudged({ request, preview, problem: "" });
  };
  const send = async () => {
    const entry = await post<RunEntry>({}, { "Idempotency-Key": requests.keyOf(request) });
    if (!entry) return;
    requests.forget();
    if (entry.workflow_id !== run.workflow_id) return setStarted(entry);
    dialog.current?.close();
    await reload();
  };
  useEffect(() => {
    if (!mistake) void check();
  }, []);
  return (
    <dialog ref={dialog} aria-label={words.title} class="correction" onClose={onClose}>
      <h2>{words.title}</h2>
      <p>{words.meaning}</p>
      {"skip" in repetition && (
        <label>
          Result of <bdi>{printable(repetition.skip)}</bdi>, as JSON
          <textarea spellcheck={false} rows={3} value={result} onInput={(event) => setResult(event.currentTarget.value)} />
        </label>
      )}
      <details>
        <summary>Other choices</summary>
        <label>
          Values that replace those of the input, as JSON
          <textarea spellcheck={false} rows={2} placeholder="{}" value={input} onInput={(event) => setInput(event.currentTarget.value)} />
        </label>
        {"from" in repetition && (
          <label>
            <input type="checkbox" checked={drops} onChange={(event) => setDrops(event.currentTarget.checked)} /> Branches next to the step do not
            continue
          </label>
        )}
      </details>
      <div class="verdict" role="region" aria-label="What is done again" aria-live="polite" tabIndex={0}>
        {started ? (
          <Started entry={started} />
        ) : mistake ? (
          mistake
        ) : current?.preview ? (
          <RepeatedSteps steps={current.preview.steps} />
        ) : current ? (
          <p class="bad">{printable(current.problem)}</p>
        ) : (
          "Check what would be done again."
        )}
      </div>
      <p class="actions">
        <Action reason={started ? "the run was started" : mistake} onAct={check}>
          Check
        </Action>
        <Action isPrimary reason={started ? "the run was started" : mistake || (current?.preview ? "" : "check first what is done again")} onAct={send}>
          {words.verb}
        </Action>
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </p>
    </dialog>
  );
}

/** The link to the new run, which gets the focus. */
function Started({ entry }: { entry: RunEntry }) {
  const link = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    link.current?.focus();
    announce("The new run was started.");
  }, []);
  return (
    <p>
      The new run was started:{" "}
      <a ref={link} href={linkTo(["runs", entry.workflow_id])}>
        <bdi>{printable(entry.playbook)}</bdi> {shortId(entry.workflow_id)}
      </a>
    </p>
  );
}

interface Words {
  title: string;
  meaning: string;
  verb: string;
}

function wordsOf(repetition: Repetition): Words {
  if ("at" in repetition) {
    const meaning = "A new run starts from the state after this event. What was done up to there is not done again. This run does not change.";
    return { title: "Start a new run from here", meaning, verb: "Start" };
  }
  if ("from" in repetition) {
    const meaning = `A new run starts at ${printable(repetition.from)}, with the names that this run had there. This run does not change.`;
    return { title: "Run again from this step", meaning, verb: "Start" };
  }
  const meaning = "The run continues as if the step had succeeded with this result. Its work is not done.";
  return { title: "Skip this step with a result", meaning, verb: "Skip" };
}

interface Typed {
  input: string;
  result: string;
  drops: boolean;
}

/** Return the body of the request, and what is wrong with the texts. */
function readBody(repetition: Repetition, { input, result, drops }: Typed): { body: Record<string, unknown>; mistake: string } {
  const values = readObject(input);
  if (values === null) return { body: {}, mistake: "Values of the input must be a JSON object." };
  const shared = Object.keys(values).length ? { input: values } : {};
  if ("at" in repetition) return { body: { ...shared, ...repetition }, mistake: "" };
  if ("from" in repetition) return { body: { ...shared, ...repetition, ...(drops ? { drop_siblings: true } : {}) }, mistake: "" };
  if (!result.trim()) return { body: {}, mistake: "Type the result that the step gets." };
  try {
    return { body: { ...shared, skip: { [repetition.skip]: parseJson(result) } }, mistake: "" };
  } catch (error) {
    return { body: {}, mistake: `The result is no JSON: ${(error as Error).message}` };
  }
}
