/** The list of runs. The service filters, sorts and counts. The address has the filter. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { Histogram as HistogramAnswer, ListedRun, StatusCounts } from "../answers";
import { go, linkTo, setParams, useAddress } from "../address";
import { age, count, duration, plural, shortId, utc } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { FilterInput } from "../parts/input";
import { useKeys } from "../parts/keys";
import { State, StateSign } from "../parts/state";
import { Changing, useNow } from "../parts/times";
import { printable } from "../parts/value";
import { useWidth } from "../parts/width";
import { follow } from "../stream";
import { BulkBar } from "./bulk";
import { filterQuery, GROUPS, isFiltered, OLDEST_FIRST, PERIODS, readFilter, type RunFilter } from "./filter";
import { Histogram } from "./histogram";
import { freshWords, PAGE_SIZE, RunRows } from "./store";

/** The height of a row in pixels. On a phone it has a second line: what goes on, or what went wrong. */
const ROW = 34;
const TALL_ROW = 52;
const EXTRA_ROWS = 12;

/** How long a row stays that the filter does not select any more, if no person points at the list. */
const GONE_MS = 3000;

/** The shortest and the longest time between two reads of the counts and the bars, in milliseconds. */
const COUNT_MS = 15_000;
const UNCHANGED_MS = 60_000;

export function RunsView() {
  const { service, setConnection } = useShared();
  const { params } = useAddress();
  const key = params.toString();
  const filter = useMemo(() => readFilter(params), [key]);
  const [, setVersion] = useState(0);
  const [problem, setProblem] = useState("");
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const control = useMemo(() => new AbortController(), [key]);
  const rows = useMemo(() => new RunRows(service, filter, () => setVersion((n) => n + 1), control.signal), [key]);
  useEffect(() => {
    setProblem("");
    setSelected(new Set());
    const fail = (error: unknown) => {
      if (!control.signal.aborted) setProblem(describe(error));
    };
    const follower = {
      path: () => `/events${filterQuery(filter, Date.now(), { limit: PAGE_SIZE })}`,
      onFrame: (frame: Parameters<RunRows["apply"]>[0]) => rows.apply(frame),
      poll: () => rows.poll(),
      onConnection: setConnection,
    };
    rows
      .loadMore()
      .then(() => follow(service, follower, control.signal))
      .catch(fail);
    return () => control.abort();
  }, [key]);
  return (
    <main class="runs">
      <RunsHead key={key} filter={filter} changes={rows.changes} />
      {problem && <p class="problem" role="alert">{problem}</p>}
      <RunTable rows={rows} filter={filter} selected={selected} onSelect={setSelected} />
      <BulkBar rows={rows} selected={selected} onSelect={setSelected} />
    </main>
  );
}

/**
 * Return the end of the time whose runs are counted. It moves within COUNT_MS after runs of the list were counted
 * otherwise, and else seldom. The time until then is random, so that many pages do not read at once.
 */
function useCountedUntil(changes: number): number {
  const now = useNow(true);
  const last = useRef({ until: now, changes, due: now + UNCHANGED_MS });
  const counted = last.current;
  if (counted.changes !== changes) {
    counted.changes = changes;
    counted.due = Math.min(counted.due, Math.max(counted.until + COUNT_MS, now + Math.random() * COUNT_MS));
  }
  if (now >= counted.due && !document.hidden) last.current = { until: now, changes, due: now + UNCHANGED_MS };
  return last.current.until;
}

function RunsHead({ filter, changes }: { filter: RunFilter; changes: number }) {
  const now = useCountedUntil(changes);
  const keeps = { keeps: true };
  const counts = useAnswer<StatusCounts>(`/workflows/counts${filterQuery(filter, now, {}, false)}#${now}`, keeps);
  const isDay = filter.since === "1d" || filter.since === "1h";
  const step = filter.since === "1h" ? "1m" : isDay ? "15m" : filter.since === "7d" ? "2h" : "8h";
  const bars = useAnswer<HistogramAnswer>(
    filter.since in PERIODS && filter.since !== "all" ? `/workflows/histogram${filterQuery(filter, now, { step }, false)}` : null,
    keeps,
  );
  const total = counts.data?.total ?? 0;
  const select = (states: readonly string[]) => setParams({ status: [...states] });
  return (
    <header class="head">
      <div class="summary">
        <h1>Runs</h1>
        <p>
          {counts.data ? `${count(total)}${counts.data.more ? " and more" : ""}, ${words(filter)}` : "\u00a0"}
        </p>
      </div>
      {bars.data ? (
        <Histogram
          answer={bars.data}
          onRange={(start, end) => setParams({ since: `${new Date(start).toISOString()}/${new Date(end).toISOString()}` })}
        />
      ) : (
        <div class="histogram" />
      )}
      <div class="filters">
        <div class="chips" role="group" aria-label="Status">
          <button type="button" aria-pressed={!filter.status.length} onClick={() => select([])}>
            All <b>{counts.data ? count(total) : ""}</b>
          </button>
          {Object.entries(GROUPS).map(([name, { word, states }]) => {
            const isPressed = states.every((state) => filter.status.includes(state));
            const number = states.reduce((all, state) => all + (counts.data?.statuses[state] ?? 0), 0);
            return (
              <button type="button" key={name} aria-pressed={isPressed} onClick={() => select(isPressed ? [] : states)}>
                <StateSign state={name === "other" ? "cancelled" : name} /> {word} <b>{counts.data ? count(number) : ""}</b>
              </button>
            );
          })}
        </div>
        <FilterFields filter={filter} />
      </div>
    </header>
  );
}

function words(filter: RunFilter): string {
  const known = PERIODS[filter.since]?.[0];
  return known ? (filter.since === "all" ? "of all times" : `in the ${known.toLowerCase()}`) : "in the chosen time";
}

function FilterFields({ filter }: { filter: RunFilter }) {
  const isChosenRange = !(filter.since in PERIODS);
  return (
    <form class="fields" onSubmit={(event) => event.preventDefault()}>
      <Field name="playbook" label="Playbook" value={filter.playbook} />
      <Field name="tag" label="Tag" value={filter.tag.join(" ")} split />
      <label>
        <span class="hidden">Time</span>
        <select value={filter.since} onChange={(event) => setParams({ since: event.currentTarget.value })}>
          {isChosenRange && <option value={filter.since}>Chosen time</option>}
          {Object.entries(PERIODS).map(([value, [label]]) => (
            <option key={value} value={value}>
              {label}
            </option>
          ))}
        </select>
      </label>
      {isFiltered(filter) && (
        <button type="button" onClick={() => go(linkTo(["runs"]))}>
          Clear filters
        </button>
      )}
      <a class="button primary" href={linkTo(["playbooks"])}>
        Start a run
      </a>
    </form>
  );
}

function Field({ name, label, value, split = false }: { name: string; label: string; value: string; split?: boolean }) {
  const apply = (text: string) => setParams({ [name]: split ? text.split(/\s+/) : text });
  return (
    <label>
      <span class="hidden">{label}</span>
      <FilterInput name={name} placeholder={label} value={value} onApply={apply} />
    </label>
  );
}

interface TableProps {
  rows: RunRows;
  filter: RunFilter;
  selected: ReadonlySet<string>;
  onSelect: (ids: ReadonlySet<string>) => void;
}

function RunTable({ rows, filter, selected, onSelect }: TableProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [current, setCurrent] = useState(0);
  const runs = rows.rows;
  const rowHeight = useWidth() === "phone" ? TALL_ROW : ROW;
  const now = useNow(true);
  const isOldestFirst = filter.sort === OLDEST_FIRST;
  useEffect(() => {
    const element = scroller.current as HTMLDivElement;
    const observer = new ResizeObserver(() => setHeight(element.clientHeight));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => setCurrent(0), [rows]);
  const isUsed = useRef(false);
  const sweep = () => {
    if (!rows.gone.size) return;
    const element = scroller.current as HTMLDivElement;
    const [shown, marked] = [runs[Math.floor(element.scrollTop / rowHeight)], runs[current]];
    rows.sweep(selected);
    const shift = shown ? rows.rows.indexOf(shown) - runs.indexOf(shown) : 0;
    if (rows.rows.includes(shown as ListedRun)) element.scrollTop += shift * rowHeight;
    setCurrent(Math.max(rows.rows.indexOf(marked as ListedRun), 0));
  };
  useEffect(() => {
    if (!rows.gone.size) return;
    const timer = setTimeout(() => isUsed.current || scroller.current?.contains(document.activeElement) || sweep(), GONE_MS);
    return () => clearTimeout(timer);
  }, [rows, rows.gone.size]);
  const first = Math.max(Math.floor(top / rowHeight) - EXTRA_ROWS, 0);
  const last = Math.min(Math.ceil((top + height) / rowHeight) + EXTRA_ROWS, runs.length);
  useEffect(() => {
    if (last >= runs.length - EXTRA_ROWS && runs.length) void rows.loadMore().catch(() => undefined);
  }, [last, runs.length]);
  const toggle = (id: string) => {
    const next = new Set(selected);
    if (!next.delete(id)) next.add(id);
    onSelect(next);
  };
  const move = (place: number) => {
    const chosen = Math.min(Math.max(place, 0), runs.length - 1);
    setCurrent(chosen);
    const element = scroller.current as HTMLDivElement;
    if (chosen * rowHeight < element.scrollTop) element.scrollTop = chosen * rowHeight;
    else if ((chosen + 1) * rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = (chosen + 1) * rowHeight - element.clientHeight;
    }
  };
  const open = (place: number) => {
    const run = runs[place];
    if (run) go(linkTo(["runs", run.workflow_id]));
  };
  useKeys({
    j: () => move(current + 1),
    k: () => move(current - 1),
    x: () => runs[current] && toggle(runs[current].workflow_id),
    Enter: () => open(current),
    ".": () => rows.showFresh(),
    Escape: () => onSelect(new Set()),
  });
  return (
    <div class="table">
      {rows.fresh.length > 0 && (
        <button type="button" class="fresh" onClick={() => rows.showFresh()}>
          {freshWords(rows.fresh)} <kbd>.</kbd>
        </button>
      )}
      <div
        class="scroller"
        ref={scroller}
        role="grid"
        aria-label="Runs"
        aria-rowcount={rows.isComplete ? runs.length + 1 : -1}
        aria-multiselectable="true"
        tabIndex={0}
        onScroll={(event) => setTop(event.currentTarget.scrollTop)}
        onPointerEnter={() => (isUsed.current = true)}
        onPointerLeave={() => {
          isUsed.current = false;
          sweep();
        }}
      >
        <div class="row columns" role="row" aria-rowindex={1}>
          {["", "Status", "Playbook", "Run", "Now, or what went wrong", "Tags", "Progress", "Duration"].map((label, index) => (
            <span role="columnheader" key={label} class={`c${index}`}>
              {label || <span class="hidden">Selected</span>}
            </span>
          ))}
          <span role="columnheader" class="c8" aria-sort={isOldestFirst ? "descending" : "ascending"}>
            <button type="button" class="link" title={isOldestFirst ? "Show the newest first" : "Show the oldest first"} onClick={() => setParams({ sort: isOldestFirst ? null : OLDEST_FIRST })}>
              Age {isOldestFirst ? "↓" : "↑"}
            </button>
          </span>
        </div>
        <div class="rows" style={{ height: `${runs.length * rowHeight}px` }}>
          {runs.slice(first, last).map((run, index) => (
            <RunRow
              key={run.workflow_id}
              run={run}
              place={first + index}
              top={(first + index) * rowHeight}
              now={now}
              isCurrent={first + index === current}
              isSelected={selected.has(run.workflow_id)}
              isGone={rows.gone.has(run.workflow_id)}
              onToggle={toggle}
            />
          ))}
        </div>
        {rows.isComplete && !runs.length && <EmptyList filter={filter} />}
      </div>
      <p class="footing">{footing(runs.length, rows.isComplete, first, last)}</p>
    </div>
  );
}

function footing(loaded: number, isComplete: boolean, first: number, last: number): string {
  if (!loaded) return "";
  return `${count(first + 1)} to ${count(last)} of ${count(loaded)}${isComplete ? "" : " and more"}`;
}

interface RowProps {
  run: ListedRun;
  place: number;
  top: number;
  now: number;
  isCurrent: boolean;
  isSelected: boolean;
  isGone: boolean;
  onToggle: (id: string) => void;
}

function RunRow({ run, place, top, now, isCurrent, isSelected, isGone, onToggle }: RowProps) {
  const end = run.finished_at ? Date.parse(run.finished_at) : now;
  const started = run.started_at ? Date.parse(run.started_at) : null;
  return (
    <div
      class={`row${isCurrent ? " current" : ""}${isGone ? " gone" : ""}`}
      title={isGone ? "The filter does not select this run any more." : undefined}
      role="row"
      aria-rowindex={place + 2}
      aria-selected={isSelected}
      style={{ transform: `translateY(${top}px)` }}
    >
      <span role="gridcell" class="c0">
        <input type="checkbox" aria-label={`Select ${shortId(run.workflow_id)}`} checked={isSelected} onChange={() => onToggle(run.workflow_id)} />
      </span>
      <span role="gridcell" class="c1">
        <State state={run.status} />
      </span>
      <span role="gridcell" class="c2">
        <a href={linkTo(["runs", run.workflow_id])} title={printable(run.playbook)}>
          <bdi>{printable(run.playbook)}</bdi>
        </a>
        {run.version && <small> {printable(run.version)}</small>}
      </span>
      <span role="gridcell" class="c3">
        <code>{shortId(run.workflow_id)}</code>
      </span>
      <span role="gridcell" class="c4" title={printable(run.headline ?? "")}>
        <bdi dir="ltr">{printable(run.headline ?? "")}</bdi>
      </span>
      <span role="gridcell" class="c5">
        {run.trigger && (
          <a
            class="tag"
            title={`Started by trigger ${printable(run.trigger)}`}
            href={linkTo(["playbooks", run.playbook, "triggers"], new URLSearchParams({ trigger: run.trigger }))}
          >
            by <bdi>{printable(run.trigger)}</bdi>
          </a>
        )}
        {run.tags.map((tag) => (
          <bdi class="tag" key={tag}>
            {printable(tag)}
          </bdi>
        ))}
      </span>
      <span role="gridcell" class="c6">
        {run.steps ? <Progress {...run.steps} /> : run.step_count && <Progress done={run.step_count} total={run.step_count} words={count(run.step_count)} />}
      </span>
      <span role="gridcell" class="c7">
        <Changing text={started === null ? "" : duration(end - started)} />
      </span>
      <span role="gridcell" class="c8" title={utc(run.created_at)}>
        <Changing text={age(now - Date.parse(run.created_at))} />
      </span>
    </div>
  );
}

/** The bar of a run that has succeeded is full, although its rules may have left out some of the steps. */
function Progress({ done, total, words }: { done: number; total: number; words?: string }) {
  return (
    <>
      <svg class="progress" width="32" height="6" aria-hidden="true">
        <rect class="all" width="32" height="6" rx="1" />
        <rect class="done" width={(32 * done) / Math.max(total, 1)} height="6" rx="1" />
      </svg>{" "}
      {words ? <span title={`The playbook has ${plural(total, "step")}.`}>{words}</span> : `${count(done)}/${count(total)}`}
    </>
  );
}

function EmptyList({ filter }: { filter: RunFilter }) {
  if (isFiltered(filter)) {
    return (
      <p class="empty">
        No run matches these filters. <a href={linkTo(["runs"])}>Clear filters</a>
      </p>
    );
  }
  return (
    <p class="empty">
      No runs in the last day. <a href={linkTo(["runs"], new URLSearchParams({ since: "all" }))}>Show runs of all times</a>, or start
      one in <a href={linkTo(["playbooks"])}>Playbooks</a>, or: <code>noetl submit examples/portable.yaml --url {location.origin}</code>
    </p>
  );
}

