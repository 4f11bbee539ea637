/** The other parts of a run: its input and result, its log lines, its history and its playbook. */

import { useEffect, useState } from "preact/hooks";

import { setParams, useAddress } from "../address";
import { hasEnded, type ErrorRecord, type HistoryEntry, type LogLine, type Page, type RunDetails } from "../answers";
import { count, duration, plural } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { FilterInput } from "../parts/input";
import { Time } from "../parts/times";
import { LargeValue, printable, Value } from "../parts/value";
import { query } from "../service";
import { LogLines } from "./drawer";

const SHOWN_EVENTS = 500;

interface RunResult {
  result: unknown;
  errors: ErrorRecord[];
}

export function Data({ id, run }: { id: string; run: RunDetails }) {
  const input = useAnswer<{ input: unknown }>(`/workflows/${id}/input`);
  const result = useAnswer<RunResult>(hasEnded(run.status) ? `/workflows/result/${id}` : null);
  // What follows the input must not move when it arrives.
  if (!input.data && !input.problem) return <div class="tab" />;
  return (
    <div class="tab">
      <section>
        <h3>Input</h3>
        {input.problem && <p class="problem">{input.problem}</p>}
        {input.data && <LargeValue value={input.data.input} name={`input-${id}.json`} />}
      </section>
      <section>
        <h3>Result</h3>
        {result.data ? <LargeValue value={result.data.result} name={`result-${id}.json`} /> : <p class="empty">{hasEnded(run.status) ? result.problem : "The run has not ended."}</p>}
      </section>
      {result.data && result.data.errors.length > 0 && (
        <section>
          <h3>Errors</h3>
          <ol>
            {result.data.errors.map((error, index) => (
              <li key={index}>
                <bdi>{printable(error.step ?? "")}</bdi>: {printable(error.message)} <code>{error.type}</code>
              </li>
            ))}
          </ol>
        </section>
      )}
    </div>
  );
}

interface LogPage extends Page<LogLine> {
  last_event: string | null;
}

interface ShownLogs {
  /** The parameters of the request that was answered. */
  filter: string;
  text: string;
  lines: LogLine[];
  cursor: string | null;
}

export function Logs({ id, version }: { id: string; version: string }) {
  const { service } = useShared();
  const { params, hash } = useAddress();
  const step = params.get("step") ?? "";
  const text = params.get("q") ?? "";
  const filter = query({ step, q: text });
  const [shown, setShown] = useState<ShownLogs | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const control = new AbortController();
    service
      .read<LogPage>(`/workflows/${id}/logs${filter}`, { signal: control.signal })
      .then((page) => {
        setShown({ filter, text, lines: page.items, cursor: page.next_cursor });
        setProblem("");
      })
      .catch((error: unknown) => {
        if (!control.signal.aborted) setProblem(describe(error));
      });
    return () => control.abort();
  }, [id, filter, version]);
  const more = async ({ cursor }: ShownLogs) => {
    try {
      const page = await service.read<LogPage>(`/workflows/${id}/logs${query({ step, q: text, cursor })}`);
      // The lines may be those of another filter, or more lines, by now.
      setShown((now) => (now?.filter === filter && now.cursor === cursor ? { ...now, lines: [...now.lines, ...page.items], cursor: page.next_cursor } : now));
    } catch (error) {
      setProblem(describe(error));
    }
  };
  const lines = shown?.lines ?? [];
  useEffect(() => document.getElementById(hash)?.scrollIntoView({ block: "center" }), [hash, lines.length > 0]);
  return (
    <div class="tab">
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <label>
          <span class="hidden">Step</span>
          <FilterInput name="step" placeholder="Step" value={step} onApply={(text) => setParams({ step: text })} />
        </label>
        <label>
          <span class="hidden">Text</span>
          <FilterInput name="q" placeholder="Text" value={text} onApply={(wanted) => setParams({ q: wanted }, { replace: true })} />
        </label>
        <small>{shown?.text && `${plural(lines.length, "line")}${shown.cursor ? " so far" : ""}`}</small>
      </form>
      {problem && <p class="problem">{problem}</p>}
      {shown && !lines.length && !problem && <p class="empty">{!shown.text ? "No line was logged." : shown.cursor ? "No line so far has this text." : "No line has this text."}</p>}
      {/* Lines of another filter are other elements: none of them moves. */}
      <LogLines key={shown?.filter} lines={lines} withStep marked={hash} />
      {shown?.cursor && (
        <button type="button" onClick={() => void more(shown)}>
          More lines
        </button>
      )}
    </div>
  );
}

/** The history. `version` changes with the events. An event in the address is marked. */
export function Events({ events }: { events: readonly HistoryEntry[]; version: number }) {
  const { hash } = useAddress();
  const marked = events.findIndex(({ id }) => id === hash);
  const [more, setShown] = useState(SHOWN_EVENTS);
  const shown = Math.max(more, marked + 1);
  useEffect(() => document.getElementById(hash)?.scrollIntoView({ block: "center" }), [hash, marked >= 0]);
  return (
    <div class="tab">
      <table class="events">
        <thead>
          <tr>
            <th>Time</th>
            <th>Event</th>
            <th>Step</th>
            <th>Visit</th>
            <th>Duration</th>
            <th>Data</th>
          </tr>
        </thead>
        <tbody>
          {events.slice(0, shown).map((event) => (
            <tr key={event.id} id={event.id} class={event.id === hash ? "marked" : ""}>
              <td>
                <Time at={event.at} />
              </td>
              <td>{event.type}</td>
              <td>
                <bdi>{printable(event.step ?? "")}</bdi>
              </td>
              <td>{event.visit}</td>
              <td>{duration(event.duration_ms)}</td>
              <td>
                <Value value={event.payload} depth={2} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {events.length > shown && (
        <button type="button" onClick={() => setShown(shown + SHOWN_EVENTS)}>
          Show more of {count(events.length)}
        </button>
      )}
    </div>
  );
}

export function Source({ text }: { text: string }) {
  const { hash } = useAddress();
  const marked = Number(hash.replace(/^L/, ""));
  useEffect(() => document.getElementById(hash)?.scrollIntoView({ block: "center" }), [hash, text]);
  return (
    <div class="tab">
      <ol class="source">
        {text.split("\n").map((line, index) => (
          <li key={index} id={`L${index + 1}`} class={index + 1 === marked ? "marked" : ""}>
            <bdi>{printable(line) || " "}</bdi>
          </li>
        ))}
      </ol>
    </div>
  );
}
