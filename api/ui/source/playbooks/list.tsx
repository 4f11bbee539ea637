/** The registry: each playbook with its version, how its latest runs ended, and how long they took. */

import { useEffect, useRef, useState } from "preact/hooks";

import { linkTo, setParams, useAddress } from "../address";
import type { Page } from "../answers";
import { age, count, duration, utc } from "../format";
import { describe, useShared } from "../parts/context";
import { StateSign, wordOf } from "../parts/state";
import { useNow } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";
import type { PlaybookEntry, PlaybookSummary } from "./answers";
import { playbookLink } from "./addresses";

const PAGE_SIZE = 50;
const TYPING_MS = 200;
const COLUMNS = ["Playbook", "Version", "Runs", "Success", "p50", "p95", "Last run", ""];

interface Registry {
  /** The text with which the items were found. */
  text: string;
  items: readonly PlaybookEntry[];
  cursor: string | null;
  isLoaded: boolean;
  problem: string;
  more: () => void;
}

/** Read the playbooks that have a text in their name, a page at a time. The last ones stay until others arrive. */
function useRegistry(text: string): Registry {
  const { service } = useShared();
  const [state, setState] = useState<Omit<Registry, "more">>({ text, items: [], cursor: null, isLoaded: false, problem: "" });
  const control = useRef(new AbortController());
  const load = (before: readonly PlaybookEntry[], cursor: string | null) => {
    control.current.abort();
    const { signal } = (control.current = new AbortController());
    service
      .read<Page<PlaybookEntry>>(`/playbooks${query({ include: "statistics", limit: PAGE_SIZE, q: text, cursor })}`, { signal })
      .then(({ items, next_cursor }) => {
        const found = [...before, ...items];
        setState({ text, items: found, cursor: next_cursor, isLoaded: true, problem: "" });
        // A page of a search may be empty, although more follow.
        if (!found.length && next_cursor) load(found, next_cursor);
      })
      .catch((error: unknown) => {
        if (!signal.aborted) setState((old) => ({ ...old, problem: describe(error) }));
      });
  };
  useEffect(() => {
    load([], null);
    return () => control.current.abort();
  }, [text]);
  return { ...state, more: () => load(state.items, state.cursor) };
}

export function RegistryView() {
  const { params } = useAddress();
  const text = params.get("q") ?? "";
  const { text: shown, items, cursor, isLoaded, problem, more } = useRegistry(text);
  const now = useNow(true);
  return (
    <main class="registry">
      <header class="head">
        <h1>Playbooks</h1>
        <p>{isLoaded ? `${count(items.length)}${cursor ? " and more" : ""}${shown ? " found" : ""}, statistics of the latest 100 runs of 30 days` : "\u00a0"}</p>
        <div class="actions">
          <Find text={text} />
          <a class="button primary" href={linkTo(["playbooks", "new"])}>
            New playbook
          </a>
        </div>
      </header>
      {problem && <p class="problem" role="alert">{problem}</p>}
      <div class="scroller" tabIndex={0} role="region" aria-label="Registered playbooks">
        {isLoaded && !items.length ? (
          <Empty text={shown} />
        ) : (
          <table>
            <thead>
              <tr>
                {COLUMNS.map((label, index) => (
                  <th key={label} scope="col" class={`p${index}`}>
                    {label || <span class="hidden">Start</span>}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {items.map((entry) => (
                <PlaybookRow key={`${shown} ${entry.name}`} entry={entry} now={now} />
              ))}
            </tbody>
          </table>
        )}
        {cursor && (
          <p class="more">
            <button type="button" onClick={more}>
              Show more
            </button>
          </p>
        )}
      </div>
    </main>
  );
}

function Find({ text }: { text: string }) {
  const timer = useRef(0);
  return (
    <input
      type="search"
      aria-label="Find a playbook"
      placeholder="Find a playbook"
      autoComplete="off"
      spellcheck={false}
      maxLength={200}
      defaultValue={text}
      onInput={(event) => {
        const value = event.currentTarget.value;
        clearTimeout(timer.current);
        timer.current = window.setTimeout(() => setParams({ q: value.trim() }, { replace: true }), TYPING_MS);
      }}
    />
  );
}

function Empty({ text }: { text: string }) {
  return text ? (
    <p class="empty">
      No playbook has <bdi>{printable(text)}</bdi> in its name.
    </p>
  ) : (
    <p class="empty">
      No playbooks are registered. <a href={linkTo(["playbooks", "new"])}>New playbook</a>
    </p>
  );
}

function PlaybookRow({ entry, now }: { entry: PlaybookEntry; now: number }) {
  const { name, version, statistics } = entry;
  return (
    <tr>
      <th scope="row" class="p0">
        <a href={playbookLink(name)} title={printable(name)}>
          <bdi>{printable(name)}</bdi>
        </a>
      </th>
      <td class="p1" title={printable(version)}>
        <bdi>{printable(version)}</bdi>
      </td>
      <td class="p2" title={statistics?.more ? "The latest runs of 30 days; there may be more." : undefined}>
        {statistics && `${count(statistics.runs)}${statistics.more ? "+" : ""}`}
      </td>
      <td class="p3">{statistics && <SuccessRate rate={statistics.success_rate} />}</td>
      <td class="p4">{duration(statistics?.median_ms)}</td>
      <td class="p5">{duration(statistics?.p95_ms)}</td>
      <td class="p6">{statistics && <LastRun statistics={statistics} now={now} />}</td>
      <td class="p7">
        <a href={playbookLink(name, ["start"])} aria-label={`Start ${printable(name)}`}>
          Start
        </a>
      </td>
    </tr>
  );
}

function LastRun({ statistics, now }: { statistics: PlaybookSummary; now: number }) {
  const { last_run, last_status } = statistics;
  if (last_run === null) return <span class="faint">never</span>;
  return (
    <span title={utc(last_run)}>
      {last_status && <StateSign state={last_status} />} {last_status && <span class="hidden">{wordOf(last_status)}</span>}
      {age(now - Date.parse(last_run))} ago
    </span>
  );
}

/** The part of ended runs that have succeeded, with a bar. A part below all is never shown as 100 %. */
export function SuccessRate({ rate }: { rate: number | null }) {
  if (rate === null) return null;
  const percent = rate === 1 ? 100 : Math.min(Math.floor(rate * 1000) / 10, 99.9);
  return (
    <span class="rate">
      <svg width="60" height="4" aria-hidden="true">
        <rect class="rest" width="60" height="4" rx="2" />
        <rect class={rate < 1 ? "part some" : "part"} width={60 * rate} height="4" rx="2" />
      </svg>
      {percent} %
    </span>
  );
}
