/** The other parts of a run: its input and result, its log lines, its history and its playbook. */

import { useEffect, useState } from "preact/hooks";

import { setParams, useAddress } from "../address";
import { hasEnded, type ErrorRecord, type HistoryEntry, type LogLine, type Page, type RunDetails } from "../answers";
import { count, duration } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { LongText, printable, Value } from "../parts/value";
import { query } from "../service";

const SHOWN_EVENTS = 500;

interface RunResult {
  result: unknown;
  errors: ErrorRecord[];
}

export function Data({ id, run }: { id: string; run: RunDetails }) {
  const input = useAnswer<{ input: unknown }>(`/workflows/${id}/input`);
  const result = useAnswer<RunResult>(hasEnded(run.status) ? `/workflows/result/${id}` : null);
  return (
    <div class="tab">
      <section>
        <h3>Input</h3>
        {input.problem && <p class="problem">{input.problem}</p>}
        {input.data && <Value value={input.data.input} />}
      </section>
      <section>
        <h3>Result</h3>
        {result.data ? <Value value={result.data.result} /> : <p class="empty">{hasEnded(run.status) ? result.problem : "The run has not ended."}</p>}
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

export function Logs({ id, version }: { id: string; version: string }) {
  const { service } = useShared();
  const { params } = useAddress();
  const step = params.get("step") ?? "";
  const [lines, setLines] = useState<LogLine[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const control = new AbortController();
    service
      .read<LogPage>(`/workflows/${id}/logs${query({ step })}`, { signal: control.signal })
      .then((page) => {
        setLines(page.items);
        setCursor(page.next_cursor);
      })
      .catch((error: unknown) => {
        if (!control.signal.aborted) setProblem(describe(error));
      });
    return () => control.abort();
  }, [id, step, version]);
  const more = async () => {
    try {
      const page = await service.read<LogPage>(`/workflows/${id}/logs${query({ step, cursor })}`);
      setLines([...lines, ...page.items]);
      setCursor(page.next_cursor);
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return (
    <div class="tab">
      <form class="fields" onSubmit={(event) => event.preventDefault()}>
        <label>
          <span class="hidden">Step</span>
          <input placeholder="Step" value={step} onChange={(event) => setParams({ step: event.currentTarget.value.trim() })} />
        </label>
      </form>
      {problem && <p class="problem">{problem}</p>}
      {!lines.length && !problem && <p class="empty">No line was logged.</p>}
      <ol class="log">
        {lines.map((line) => (
          <li key={line.id} class={line.level}>
            <Time at={line.logged_at} /> <bdi class="step">{printable(line.step)}</bdi>{" "}
            <i>{line.stream === "line" ? line.action : line.stream}</i> <LongText text={line.text} />
          </li>
        ))}
      </ol>
      {cursor && (
        <button type="button" onClick={() => void more()}>
          More lines
        </button>
      )}
    </div>
  );
}

export function Events({ events }: { events: readonly HistoryEntry[] }) {
  const [shown, setShown] = useState(SHOWN_EVENTS);
  return (
    <div class="tab">
      <table>
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
            <tr key={event.id} id={event.id}>
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
