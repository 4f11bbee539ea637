/** The form that starts a run: a field for each declared input. What was typed stays, whatever the service answers. */

import { useEffect, useRef, useState } from "preact/hooks";

import { go, linkTo } from "../address";
import { shortId } from "../format";
import { describe, useShared } from "../parts/context";
import { useRequestKey } from "../parts/request_key";
import { printable } from "../parts/value";
import { Problem, type ProblemField } from "../service";
import type { DeclaredInput, PlaybookDocument } from "./answers";
import { playbookLink, playbookPath } from "./addresses";
import { parseJson } from "./exact";
import { InputField } from "./field";
import { readTexts, textOf, type Texts } from "./inputs";
import { usePlan } from "./loading";

interface RunSource {
  version: string | null;
  plan_hash: string;
  source: string;
}

/** What is started: a version in the registry, or the text of an earlier run that the registry has not. */
type Subject = { name: string; version: string } | string;

interface Origin {
  subject: Subject;
  /** The input and the run from which it is; null without one. */
  run: { id: string; input: Record<string, unknown> } | null;
}

interface Props {
  name: string;
  version: string | null;
  /** The id of a run whose input the form has at first. */
  run: string | null;
}

/** Read what is started. The registry is preferred to the text of a run, if it has the same plan. */
function useOrigin({ name, version, run }: Props): { origin: Origin | null; problem: string } {
  const { service } = useShared();
  const [state, setState] = useState<{ origin: Origin | null; problem: string }>({ origin: null, problem: "" });
  useEffect(() => {
    const control = new AbortController();
    const { signal } = control;
    const registered = async (wanted: string | null) => {
      const found = await service.read<PlaybookDocument>(playbookPath(name, wanted), { signal });
      return { subject: { name, version: found.version }, hash: found.plan_hash };
    };
    const read = async (): Promise<Origin> => {
      if (run === null) return { subject: (await registered(version ?? "live")).subject, run: null };
      const path = `/workflows/${encodeURIComponent(run)}`;
      const response = await service.send(`${path}/input`, { signal });
      const { input } = parseJson(await response.text()) as { input: Record<string, unknown> };
      const text = await service.read<RunSource>(`${path}/source`, { signal });
      if (version !== null && version !== text.version) return { subject: (await registered(version)).subject, run: { id: run, input } };
      const same = text.version === null ? null : await registered(text.version).catch(unlessUnknown);
      return { subject: same?.hash === text.plan_hash ? same.subject : text.source, run: { id: run, input } };
    };
    read()
      .then((origin) => setState({ origin, problem: "" }))
      .catch((error: unknown) => {
        if (!signal.aborted) setState({ origin: null, problem: describe(error) });
      });
    return () => control.abort();
  }, []);
  return state;
}

function unlessUnknown(error: unknown): null {
  if (error instanceof Problem && error.status === 404) return null;
  throw error;
}

export function StartView(props: Props) {
  const { name } = props;
  const { origin, problem } = useOrigin(props);
  const plan = usePlan(origin?.subject ?? null);
  const trouble = problem || plan.problem;
  return (
    <main class="start">
      <header class="head">
        <nav class="trail" aria-label="Place">
          <a href={linkTo(["playbooks"])}>Playbooks</a>
          <span aria-hidden="true">›</span>
          <a href={playbookLink(name)}>
            <bdi>{printable(name)}</bdi>
          </a>
        </nav>
        <h1>
          Start <bdi>{printable(name)}</bdi>
        </h1>
        <p class="facts">{origin ? <OriginWords origin={origin} /> : null}</p>
      </header>
      {trouble && !plan.data && (
        <p class="problem" role="alert">
          {trouble} <a href={linkTo(["playbooks"])}>All playbooks</a>
        </p>
      )}
      {!trouble && !plan.data && <p class="empty">Reading the inputs …</p>}
      {origin && plan.data && <StartForm origin={origin} fields={plan.data.inputs} />}
    </main>
  );
}

function OriginWords({ origin: { subject, run } }: { origin: Origin }) {
  return (
    <>
      <span>
        {typeof subject === "string" ? (
          "With the text of the run, which is not in the registry"
        ) : (
          <>
            Version <bdi>{printable(subject.version)}</bdi>
          </>
        )}
      </span>
      {run && (
        <span>
          With the input of <a href={linkTo(["runs", run.id])}>{shortId(run.id)}</a>
        </span>
      )}
    </>
  );
}

/** Return the texts of the fields for the input of an earlier run, and the members that no field has. */
function fill(fields: Record<string, DeclaredInput>, input: Record<string, unknown> | undefined): { texts: Texts; rest: string } {
  const entries = Object.entries(input ?? {});
  const known = entries.filter(([name]) => Object.hasOwn(fields, name));
  const rest = entries.filter(([name]) => !Object.hasOwn(fields, name));
  return {
    texts: Object.fromEntries(known.map(([name, value]) => [name, textOf(fields[name] as DeclaredInput, value)])),
    rest: rest.map(([name]) => name).join(", "),
  };
}

interface Refusal {
  words: string;
  fields: readonly ProblemField[];
}

function StartForm({ origin, fields }: { origin: Origin; fields: Record<string, DeclaredInput> }) {
  const { service } = useShared();
  const [{ texts, rest }, setFilled] = useState(() => fill(fields, origin.run?.input));
  const [tags, setTags] = useState("");
  const [key, setKey] = useState("");
  const [errors, setErrors] = useState<Texts>({});
  const [refusal, setRefusal] = useState<Refusal | null>(null);
  const [isSending, setIsSending] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const requests = useRequestKey();
  useEffect(() => {
    form.current?.querySelector<HTMLElement>("[aria-invalid='true']")?.focus();
  }, [errors]);
  const refuse = (error: unknown) => {
    if (error instanceof Problem && error.status === 403) {
      return setRefusal({ words: "This key may not start runs. It needs the scope `run`.", fields: [] });
    }
    const found = error instanceof Problem ? error.fields : [];
    setErrors(Object.fromEntries(found.filter(({ name }) => Object.hasOwn(fields, name)).map(({ name, message }) => [name, message])));
    const others = found.filter(({ name }) => !Object.hasOwn(fields, name));
    setRefusal({ words: found.length > others.length ? "The run was not started." : describe(error), fields: others });
  };
  const submit = async () => {
    const { input, errors: wrong } = readTexts(fields, texts);
    setErrors(wrong);
    setRefusal(Object.keys(wrong).length ? { words: "The run was not started.", fields: [] } : null);
    if (Object.keys(wrong).length || isSending) return;
    const labels = tags.split(/\s+/).filter(Boolean);
    const body = { playbook: origin.subject, input, ...(labels.length ? { tags: labels } : {}) };
    setIsSending(true);
    try {
      const headers = { "Idempotency-Key": key.trim() || requests.keyOf(JSON.stringify(body)) };
      const run = await service.read<{ workflow_id: string }>("/workflows/run", { method: "POST", body, headers });
      go(linkTo(["runs", run.workflow_id]));
    } catch (error) {
      refuse(error);
    } finally {
      setIsSending(false);
    }
  };
  const names = Object.keys(fields);
  return (
    <form
      ref={form}
      class="start-form"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
      onKeyDown={(event) => {
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault();
        void submit();
      }}
    >
      {!names.length && <p class="hint">This playbook takes no input.</p>}
      {names.map((name, index) => (
        <InputField
          key={name}
          id={`input-${index}`}
          name={name}
          field={fields[name] as DeclaredInput}
          text={texts[name] ?? ""}
          error={errors[name]}
          onText={(text) => setFilled((old) => ({ ...old, texts: { ...old.texts, [name]: text } }))}
        />
      ))}
      {rest && (
        <p class="hint">
          The earlier run also had <bdi>{printable(rest)}</bdi>, which this playbook does not take.
        </p>
      )}
      <details>
        <summary>Tags and repetition</summary>
        <label class="field">
          <span>Tags</span>
          <input aria-label="Tags" value={tags} autoComplete="off" spellcheck={false} onInput={(event) => setTags(event.currentTarget.value)} />
          <small>Separated by blanks, such as month=2026-10 eu.</small>
        </label>
        <label class="field">
          <span>Idempotency key</span>
          <input aria-label="Idempotency key" value={key} autoComplete="off" spellcheck={false} maxLength={255} onInput={(event) => setKey(event.currentTarget.value)} />
          <small>The same key with the same input starts one run, however often it is sent. Empty: a new key.</small>
        </label>
      </details>
      <div class="actions">
        <button type="submit" class="primary" aria-disabled={isSending}>
          Start the run
        </button>
        <kbd>Ctrl Enter</kbd>
        <output role="alert">
          {refusal && <span class="bad">{printable(refusal.words)}</span>}
          {refusal?.fields.map(({ name, message }) => (
            <span class="bad" key={name}>
              <bdi>{printable(message)}</bdi>
            </span>
          ))}
        </output>
      </div>
    </form>
  );
}
