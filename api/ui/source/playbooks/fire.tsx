/** The form that fires a trigger by hand. It has the inputs of the playbook, and what the type of the trigger needs. */

import { useState } from "preact/hooks";

import { go, linkTo } from "../address";
import { describe, useShared } from "../parts/context";
import { useRequestKey } from "../parts/request_key";
import { printable } from "../parts/value";
import { Problem } from "../service";
import type { DeclaredInput, TriggerDetails } from "./answers";
import { InputField } from "./field";
import { readTexts, type Texts } from "./inputs";

/** The field of a type that is no input of the playbook: the member of the request, its label and its declaration. */
const CAUSES: Record<string, { member: string; label: string; field: DeclaredInput }> = {
  webhook: dataCause("request", '{"body": {"id": 7}}. Parts that are missing are empty.'),
  folder: dataCause("file", '{"path": "in/a.csv", "name": "a.csv", "size": 3}.'),
  queue: dataCause("message", '{"body": {"id": 7}}.'),
  s3: dataCause("object", '{"bucket": "orders", "object": "in/a.csv", "size": 3}.'),
  event: dataCause("event", '{"detail": {"id": 7}}.'),
  run: {
    member: "run",
    label: "Run",
    field: causeField("string", "The id of a run that has ended, whose result the templates read. If empty: they read nothing."),
  },
};

function dataCause(subject: string, example: string) {
  const description = `What templates read under "trigger", such as ${example}`;
  return { member: "data", label: `Data of the ${subject}`, field: causeField("object", description) };
}

function causeField(type: string, description: string): DeclaredInput {
  return { type, required: false, default: null, enum: null, description, inferred: true };
}

/** Return a declared input as the form shows it. What the trigger gives needs no value. */
function givenField(field: DeclaredInput, given: unknown): DeclaredInput {
  if (given === undefined) return field;
  const words = `If empty: ${typeof given === "string" ? given : JSON.stringify(given)}`;
  return { ...field, required: false, inferred: true, description: [field.description, words].filter(Boolean).join(" ") };
}

export function FireForm({ path, trigger }: { path: string; trigger: TriggerDetails }) {
  const { service } = useShared();
  const [texts, setTexts] = useState<Texts>({});
  const [causeText, setCauseText] = useState("");
  const [errors, setErrors] = useState<Texts>({});
  const [causeError, setCauseError] = useState("");
  const [instant, setInstant] = useState("");
  const [refusal, setRefusal] = useState("");
  const requests = useRequestKey();
  const [isSending, setIsSending] = useState(false);
  const fields = Object.fromEntries(Object.entries(trigger.inputs).map(([name, field]) => [name, givenField(field, trigger.input[name])]));
  const isKnown = trigger.firings.some(({ scheduled_at: time }) => time === instant);
  const cause = CAUSES[trigger.type];
  const fire = async () => {
    const { input, errors: wrong } = readTexts(fields, texts);
    const caused = cause ? readTexts({ [cause.member]: cause.field }, { [cause.member]: causeText.trim() }) : { input: {}, errors: {} };
    const problem = cause ? (caused.errors[cause.member] ?? "") : "";
    setErrors(wrong);
    setCauseError(problem);
    const isWrong = Boolean(Object.keys(wrong).length || problem);
    setRefusal(isWrong ? "The trigger was not fired." : "");
    if (isWrong || isSending) return;
    setIsSending(true);
    const body = { input, ...caused.input, ...(isKnown ? { at: instant } : {}) };
    try {
      const headers = { "Idempotency-Key": requests.keyOf(JSON.stringify(body)) };
      const run = await service.read<{ workflow_id: string }>(`${path}/fire`, { method: "POST", body, headers });
      go(linkTo(["runs", run.workflow_id]));
    } catch (error) {
      const found = error instanceof Problem ? error.fields : [];
      setErrors(Object.fromEntries(found.map(({ name, message }) => [name, message])));
      const isForbidden = error instanceof Problem && error.status === 403;
      setRefusal(isForbidden ? "This key may not fire triggers. It needs the scope `run`." : describe(error));
    } finally {
      setIsSending(false);
    }
  };
  return (
    <details class="fire">
      <summary>Fire by hand</summary>
      <form
        class="start-form"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void fire();
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
          event.preventDefault();
          void fire();
        }}
      >
        {trigger.type === "schedule" && (
          <div class="field">
            <label for="fire-instant">When</label>
            <select id="fire-instant" value={isKnown ? instant : ""} onChange={(event) => setInstant(event.currentTarget.value)}>
              <option value="">Now</option>
              {trigger.firings.map(({ scheduled_at: time, local }) => (
                <option key={time} value={time}>
                  Now, for {local.slice(0, 16).replace("T", " ")}
                </option>
              ))}
            </select>
          </div>
        )}
        {cause && <InputField id="fire-cause" name={cause.label} field={cause.field} text={causeText} error={causeError} onText={setCauseText} />}
        {Object.entries(fields).map(([name, field], index) => (
          <InputField
            key={name}
            id={`fire-${index}`}
            name={name}
            field={field}
            text={texts[name] ?? ""}
            error={errors[name]}
            onText={(text) => setTexts((old) => ({ ...old, [name]: text }))}
          />
        ))}
        <div class="actions">
          <button type="submit" class="primary" aria-disabled={isSending}>
            Fire
          </button>
          <kbd>Ctrl Enter</kbd>
          <output role="alert" class="bad">
            {printable(refusal)}
          </output>
        </div>
      </form>
    </details>
  );
}
