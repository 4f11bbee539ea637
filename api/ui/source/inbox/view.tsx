/** What waits for a person: what expires first on top, and the form that says where each answer leads. */

import { useEffect, useRef, useState } from "preact/hooks";

import { linkTo, useAddress } from "../address";
import type { Field, InboxEntry, Page, StepData } from "../answers";
import { age, plural, shortId } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { useKeys } from "../parts/keys";
import { useQuestions } from "../parts/questions";
import { Time, useNow } from "../parts/times";
import { printable, Value } from "../parts/value";
import { Problem, query } from "../service";

const POLL_MS = 5000;

function keyOf({ workflow_id, step, visit, position }: InboxEntry): string {
  return [workflow_id, step, visit, position].join(" ");
}

function addressOf({ step, visit, position }: InboxEntry): URLSearchParams {
  return new URLSearchParams({ step, visit: String(visit), position });
}

export function InboxView() {
  const { parts, params } = useAddress();
  const cursor = params.get("after");
  const inbox = useAnswer<Page<InboxEntry>>(`/inbox${query({ order: "expires", cursor })}`, { everyMs: POLL_MS, grows: true, readsOn: true });
  const kept = inbox.data?.items;
  const list = useSteadyList(kept, cursor);
  useKeys({ ".": list.refresh });
  useQuestions(kept?.map(keyOf).join());
  const now = useNow(true);
  const id = parts[1];
  const chosen = useChosen(id, params, kept);
  const next = inbox.data?.next_cursor;
  return (
    <main class="inbox">
      <section class="list">
        <header>
          <h1>Inbox</h1>
          <button type="button" class={list.isOld ? "" : "spare"} onClick={list.refresh}>
            {list.fresh ? plural(list.fresh, "new question") : "Refresh"}
          </button>
        </header>
        {inbox.problem && <p class="problem" role="alert">{inbox.problem}</p>}
        {kept && !list.entries.length && <p class="empty">Nothing waits for a person.</p>}
        <ul>
          {list.entries.map((entry) => (
            <li key={keyOf(entry)} class={`${chosen && keyOf(entry) === keyOf(chosen) ? "chosen" : ""}${list.isOpen(entry) ? "" : " closed"}`}>
              <a href={linkTo(["inbox", entry.workflow_id], keepCursor(addressOf(entry), cursor))}>
                <b>{printable(entry.title ?? entry.step)}</b>
                {!list.isOpen(entry) && <span class="hidden">, not open any more</span>}
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
        {(cursor || next) && (
          <p class="empty">
            {cursor && <a href={linkTo(["inbox"])}>What expires first</a>} {next && <a href={linkTo(["inbox"], keepCursor(new URLSearchParams(), next))}>More questions</a>}
          </p>
        )}
      </section>
      {!kept && !inbox.problem ? null : chosen ? (
        <Question key={keyOf(chosen)} entry={chosen} list={kept ?? []} onAnswered={inbox.reload} />
      ) : (
        <section class="question">
          <p class="empty">
            {!id || !kept ? (
              kept?.length ? "Choose a question." : ""
            ) : next ? (
              <>
                The question is not among these. <a href={linkTo(["inbox", id], keepCursor(new URLSearchParams(params), next))}>Look among the next ones</a>
              </>
            ) : (
              CLOSED
            )}
          </p>
        </section>
      )}
    </main>
  );
}

interface SteadyList {
  entries: readonly InboxEntry[];
  isOpen: (entry: InboxEntry) => boolean;
  /** How many questions are not shown yet, and whether anything but the shown entries is known. */
  fresh: number;
  isOld: boolean;
  refresh: () => void;
}

/** Let the entries of a page keep their places. Closed ones stay, and new ones wait until a person wants them. */
function useSteadyList(items: InboxEntry[] | undefined, cursor: string | null): SteadyList {
  const [shown, setShown] = useState<{ cursor: string | null; entries: InboxEntry[] } | null>(null);
  const hasPlaces = shown !== null && shown.cursor === cursor && shown.entries.length > 0;
  useEffect(() => {
    if (items && !hasPlaces) setShown({ cursor, entries: items });
  }, [items, hasPlaces, cursor]);
  const open = new Map(items?.map((entry) => [keyOf(entry), entry]));
  const entries = (hasPlaces ? shown.entries : (items ?? [])).map((entry) => open.get(keyOf(entry)) ?? entry);
  const places = entries.map(keyOf);
  return {
    entries,
    isOpen: (entry) => items === undefined || open.has(keyOf(entry)),
    fresh: [...open.keys()].filter((key) => !places.includes(key)).length,
    isOld: items !== undefined && places.join("\n") !== [...open.keys()].join("\n"),
    refresh: () => items && setShown({ cursor, entries: items }),
  };
}

const CLOSED = "This step does not wait any more.";

function keepCursor(params: URLSearchParams, cursor: string | null): URLSearchParams {
  if (cursor) params.set("after", cursor);
  return params;
}

/** Return the question of the address. It stays when it is answered elsewhere, so that what was typed is not lost. */
function useChosen(id: string | undefined, params: URLSearchParams, list: InboxEntry[] | undefined): InboxEntry | null {
  const last = useRef<{ address: string; entry: InboxEntry } | null>(null);
  const address = `${id} ${params}`;
  if (last.current?.address !== address) last.current = null;
  const isMeant = (entry: InboxEntry, name: "step" | "visit" | "position") => [null, String(entry[name])].includes(params.get(name));
  const known = last.current && keyOf(last.current.entry);
  const entry = known
    ? list?.find((found) => keyOf(found) === known)
    : list?.find((found) => found.workflow_id === id && isMeant(found, "step") && isMeant(found, "visit") && isMeant(found, "position"));
  if (entry) last.current = { address, entry };
  return last.current?.entry ?? null;
}

interface QuestionProps {
  entry: InboxEntry;
  list: readonly InboxEntry[];
  onAnswered: () => void;
}

function Question({ entry, list, onAnswered }: QuestionProps) {
  const { service } = useShared();
  const [values, setValues] = useState<Record<string, string>>({});
  const [json, setJson] = useState("");
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [report, setReport] = useState("");
  const fields = entry.answer;
  const isOpen = list.some((found) => keyOf(found) === keyOf(entry));
  const send = async (answer: unknown) => {
    if (!isOpen) return;
    setErrors({});
    setReport("");
    const { step, visit, position } = entry;
    try {
      await service.read(`/workflows/${entry.workflow_id}/answer`, {
        method: "POST",
        body: { step, visit, position, answer },
      });
      setReport("The answer was sent.");
    } catch (error) {
      if (error instanceof Problem) setErrors(Object.fromEntries(error.fields.map(({ name, message }) => [name, message])));
      setReport(describe(error));
    }
    onAnswered();
  };
  const sendJson = () => {
    try {
      void send(JSON.parse(json));
    } catch {
      setReport("This is not JSON. A text stands in quotes.");
    }
  };
  const submit = () => {
    if (!fields) return json.trim() ? sendJson() : undefined;
    const answer: Record<string, unknown> = {};
    for (const [name, field] of Object.entries(fields)) {
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
          if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
          event.preventDefault();
          submit();
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
          <button type="submit" class="primary" title="Ctrl Enter" disabled={!isOpen}>
            Send answer
          </button>
        ) : (
          <>
            <div class="actions">
              <button type="button" class="primary" disabled={!isOpen} onClick={() => void send(true)}>
                Yes
              </button>
              <button type="button" disabled={!isOpen} onClick={() => void send(false)}>
                No
              </button>
            </div>
            <fieldset>
              <legend>
                Another answer <small>JSON, such as {"{"}"amount": 3{"}"}</small>
              </legend>
              <input name="json" aria-label="Another answer, as JSON" spellcheck={false} value={json} onInput={(event) => setJson(event.currentTarget.value)} />
            </fieldset>
            <button type="submit" title="Ctrl Enter" disabled={!isOpen || !json.trim()}>
              Send JSON
            </button>
          </>
        )}
        <output>{[report, isOpen ? "" : CLOSED].filter(Boolean).join(" ")}</output>
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
      {!isOpen && <Closed entry={entry} list={list} />}
    </section>
  );
}

/** What became of a question that is not open any more: when its visit ended and with which result, and whether the step asks again. It stands below the form, which keeps its place. */
function Closed({ entry, list }: { entry: InboxEntry; list: readonly InboxEntry[] }) {
  const { step, visit, workflow_id } = entry;
  const { data } = useAnswer<StepData>(`/workflows/${workflow_id}/step${query({ name: step, visit })}`);
  const again = list.find((found) => found.workflow_id === workflow_id && found.step === step);
  return (
    <div role="status">
      {data?.finished_at && (
        <h3>
          The step has ended at <Time at={data.finished_at} />
        </h3>
      )}
      {data?.finished_at && data.result !== null && <Value value={data.result} />}
      {again && (
        <p>
          It asks again. <a href={linkTo(["inbox", workflow_id], addressOf(again))}>Open the question</a>
        </p>
      )}
    </div>
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
