/** What waits for a person: what expires first on top, and the form that says where each answer leads. */

import { useState } from "preact/hooks";

import { linkTo, useAddress } from "../address";
import type { Field, InboxEntry, Page } from "../answers";
import { age, shortId } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { useQuestions } from "../parts/questions";
import { Time, useNow } from "../parts/times";
import { printable, Value } from "../parts/value";
import { Problem } from "../service";

const POLL_MS = 5000;

function keyOf({ workflow_id, step, visit, position }: InboxEntry): string {
  return [workflow_id, step, visit, position].join(" ");
}

function addressOf({ step, visit, position }: InboxEntry): URLSearchParams {
  return new URLSearchParams({ step, visit: String(visit), position });
}

export function InboxView() {
  const { parts, params } = useAddress();
  const inbox = useAnswer<Page<InboxEntry>>("/inbox?order=expires", { everyMs: POLL_MS });
  const kept = inbox.data?.items;
  useQuestions(kept?.map(keyOf).join());
  const now = useNow(true);
  const id = parts[1];
  const isMeant = (entry: InboxEntry, name: "step" | "visit" | "position") => [null, String(entry[name])].includes(params.get(name));
  const chosen =
    kept?.find((entry) => entry.workflow_id === id && isMeant(entry, "step") && isMeant(entry, "visit") && isMeant(entry, "position")) ?? null;
  return (
    <main class="inbox">
      <section class="list">
        <h1>Inbox</h1>
        {inbox.problem && <p class="problem" role="alert">{inbox.problem}</p>}
        {kept && !kept.length && <p class="empty">Nothing waits for a person.</p>}
        <ul>
          {kept?.map((entry) => (
            <li key={keyOf(entry)} class={entry === chosen ? "chosen" : ""}>
              <a href={linkTo(["inbox", entry.workflow_id], addressOf(entry))}>
                <b>{printable(entry.title ?? entry.step)}</b>
                <span>
                  <bdi>{printable(entry.playbook)}</bdi> · <bdi>{printable(entry.step)}</bdi> · {age(now - Date.parse(entry.opened_at))}
                </span>
                {entry.expires_at && (
                  <span class="wait">
                    until <Time at={entry.expires_at} />
                  </span>
                )}
              </a>
            </li>
          ))}
        </ul>
      </section>
      {chosen ? (
        <Question key={keyOf(chosen)} entry={chosen} onAnswered={inbox.reload} />
      ) : (
        <section class="question">
          <p class="empty">{id && kept ? "This step does not wait any more." : kept?.length ? "Choose a question." : ""}</p>
        </section>
      )}
    </main>
  );
}

function Question({ entry, onAnswered }: { entry: InboxEntry; onAnswered: () => void }) {
  const { service } = useShared();
  const [values, setValues] = useState<Record<string, string>>({});
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [report, setReport] = useState("");
  const fields = entry.answer;
  const send = async (answer: unknown) => {
    setErrors({});
    setReport("");
    const { step, visit, position } = entry;
    try {
      await service.read(`/workflows/${entry.workflow_id}/answer`, {
        method: "POST",
        body: { step, visit, position, answer },
      });
      setReport("The answer was sent.");
      onAnswered();
    } catch (error) {
      if (error instanceof Problem) setErrors(Object.fromEntries(error.fields.map(({ name, message }) => [name, message])));
      setReport(describe(error));
    }
  };
  const submit = () => {
    const answer: Record<string, unknown> = {};
    for (const [name, field] of Object.entries(fields ?? {})) {
      const value = readField(field, values[name]);
      if (value !== undefined) answer[name] = value;
    }
    void send(answer);
  };
  return (
    <section class="question">
      <h2>{printable(entry.title ?? `${entry.step} waits for an answer`)}</h2>
      <p class="facts">
        <a href={linkTo(["runs", entry.workflow_id], new URLSearchParams({ step: entry.step }))}>
          {printable(entry.playbook)} {shortId(entry.workflow_id)}
        </a>
        <span>
          asked <Time at={entry.opened_at} />
        </span>
      </p>
      {entry.details !== null && entry.details !== undefined && <Value value={entry.details} />}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          submit();
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && event.ctrlKey) submit();
        }}
      >
        {fields &&
          Object.entries(fields).map(([name, field]) => (
            <AnswerField
              key={name}
              name={name}
              field={field}
              value={values[name]}
              error={errors[name]}
              onChange={(value) => setValues({ ...values, [name]: value })}
            />
          ))}
        {fields ? (
          <button type="submit" class="primary">
            Send answer
          </button>
        ) : (
          <div class="actions">
            <button type="button" class="primary" onClick={() => void send(true)}>
              Yes
            </button>
            <button type="button" onClick={() => void send(false)}>
              No
            </button>
          </div>
        )}
        <output>{report}</output>
      </form>
      {entry.cases.length > 0 && (
        <>
          <h3>Where each answer leads</h3>
          <ol class="guards">
            {entry.cases.map((rule) => (
              <li key={rule.case}>
                <code>{printable(rule.guard ?? "else")}</code> → {rule.targets.length ? rule.targets.map(printable).join(", ") : "the end"}
              </li>
            ))}
          </ol>
        </>
      )}
    </section>
  );
}

interface FieldProps {
  name: string;
  field: Field;
  value: string | undefined;
  error: string | undefined;
  onChange: (value: string) => void;
}

function AnswerField({ name, field, value, error, onChange }: FieldProps) {
  const choices = field.enum ?? (field.type === "boolean" ? [true, false] : null);
  const words = (choice: unknown) => (choice === true ? "Yes" : choice === false ? "No" : String(choice));
  return (
    <fieldset aria-invalid={error ? "true" : undefined}>
      <legend>
        <bdi>{printable(name)}</bdi> {field.description && <small>{printable(field.description)}</small>}
      </legend>
      {choices ? (
        choices.map((choice) => (
          <label key={String(choice)}>
            <input type="radio" name={name} checked={value === JSON.stringify(choice)} onChange={() => onChange(JSON.stringify(choice))} />{" "}
            {words(choice)}
          </label>
        ))
      ) : (
        <input name={name} aria-label={name} value={value ?? ""} onInput={(event) => onChange(event.currentTarget.value)} />
      )}
      {error && <p class="problem">{error}</p>}
    </fieldset>
  );
}

/** Return the value of a field, or undefined if nothing was typed. Texts are texts; other types are JSON. */
function readField(field: Field, text: string | undefined): unknown {
  if (text === undefined || text === "") return undefined;
  const isText = (field.type ?? "string") === "string" && !field.enum;
  if (isText) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
