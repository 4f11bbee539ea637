/** When each step worked and waited. Rows are virtual, and all bars are on one canvas that moves with the rows. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import type { RunDetails } from "../answers";
import { clock } from "../format";
import { StateSign } from "../parts/state";
import { useTheme } from "../parts/theme";
import { Changing } from "../parts/times";
import { printable } from "../parts/value";
import { drawAxis, drawBars, ROW } from "./bars";
import type { RunHistory } from "./history";
import { makeRows, orderOf, type Place, type TimelineRow } from "./rows";
import { findIdle, makeScale, ticksOf } from "./scale";

const EXTRA_ROWS = 12;
const LABEL_WIDTH = 196;
const LENGTH_WIDTH = 88;

interface Props {
  run: RunDetails;
  history: RunHistory;
  /** Changes with the history. */
  version: number;
  now: number;
  folds: boolean;
  onFold: (folds: boolean) => void;
  chosen: string | null;
  onChoose: (place: Place) => void;
}

export function Timeline({ run, history, version, now, folds, onFold, chosen, onChoose }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const bars = useRef<HTMLCanvasElement>(null);
  const axis = useRef<HTMLCanvasElement>(null);
  const [size, setSize] = useState({ width: 300, height: 600 });
  const [first, setFirst] = useState(0);
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
  const [current, setCurrent] = useState("");
  const theme = useTheme();
  const names = useMemo(() => orderOf(run), [run.plan_hash, Object.keys(run.steps).length]);
  const start = Date.parse(run.started_at ?? run.created_at);
  const end = Math.max(run.finished_at ? Date.parse(run.finished_at) : now, start + 1);
  const rows = useMemo(() => makeRows(names, run, history, open, end), [names, run, version, open, end]);
  const idle = useMemo(() => (folds ? findIdle([...history.steps.values()].flatMap(({ spans }) => spans), start, end) : []), [version, folds, start, end]);
  const scale = useMemo(() => makeScale(start, end, size.width, idle), [start, end, size.width, idle]);
  const last = Math.min(first + Math.ceil(size.height / ROW) + 2 * EXTRA_ROWS, rows.length);
  useEffect(() => {
    const element = scroller.current as HTMLDivElement;
    const observer = new ResizeObserver(() => {
      setSize({ width: Math.max(element.clientWidth - LABEL_WIDTH - LENGTH_WIDTH, 40), height: element.clientHeight });
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    drawBars(bars.current as HTMLCanvasElement, rows.slice(first, last), size.width, scale, end);
  }, [rows, first, last, scale, theme]);
  useLayoutEffect(() => {
    const words = { start: clock(start), end: run.finished_at ? clock(end) : "now", ticks: ticksOf(scale, start, end) };
    drawAxis(axis.current as HTMLCanvasElement, size.width, scale, words);
  }, [scale, theme, run.finished_at]);
  const place = Math.max(rows.findIndex(({ key }) => key === current), 0);
  const toggle = (row: TimelineRow, isOpen: boolean) => {
    const next = new Set(open);
    if (isOpen) next.add(row.key);
    else next.delete(row.key);
    setOpen(next);
  };
  const reveal = (target: number) => {
    const element = scroller.current as HTMLDivElement;
    const row = rows[Math.min(Math.max(target, 0), rows.length - 1)];
    if (!row) return;
    setCurrent(row.key);
    const top = rows.indexOf(row) * ROW;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + ROW > element.scrollTop + element.clientHeight) element.scrollTop = top + ROW - element.clientHeight;
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const row = rows[place];
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.floor(size.height / ROW);
    const moves: Record<string, number> = { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + page, PageUp: place - page, Home: 0, End: rows.length };
    if (event.key in moves) reveal(moves[event.key] as number);
    else if (event.key === "ArrowRight" && row.isOpen === false) toggle(row, true);
    else if (event.key === "ArrowLeft" && row.isOpen) toggle(row, false);
    else if (event.key === "ArrowLeft" && row.level > 1) reveal(rows.findLastIndex(({ level }, index) => index < place && level < row.level));
    else if (event.key === "Enter" || event.key === " ") onChoose(row.place);
    else return;
    event.preventDefault();
  };
  return (
    <section class="timeline" aria-label="Timeline">
      <header>
        <h2>Timeline</h2>
        <Legend />
      </header>
      <div class="axis">
        <label>
          <input type="checkbox" checked={folds} onChange={(event) => onFold(event.currentTarget.checked)} /> Fold idle time
        </label>
        <canvas ref={axis} aria-hidden="true" />
      </div>
      <div
        class="scroller"
        ref={scroller}
        role="treegrid"
        aria-label={`Steps from ${clock(start)} to ${run.finished_at ? clock(end) : "now"}`}
        aria-rowcount={rows.length}
        aria-activedescendant={rows.length ? `row${place}` : undefined}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onScroll={(event) => {
          const top = Math.floor(event.currentTarget.scrollTop / ROW) - EXTRA_ROWS;
          const next = Math.max(Math.floor(top / 6) * 6, 0);
          if (next !== first) setFirst(next);
        }}
      >
        <div class="bars" style={{ height: `${rows.length * ROW}px` }}>
          <canvas ref={bars} aria-hidden="true" style={{ transform: `translateY(${first * ROW}px)` }} />
          {rows.slice(first, last).map((row, index) => (
            <Row
              key={row.key}
              row={row}
              place={first + index}
              isCurrent={first + index === place}
              isChosen={row.level === 1 && row.place.step === chosen}
              onToggle={() => toggle(row, !row.isOpen)}
              onChoose={() => {
                setCurrent(row.key);
                onChoose(row.place);
              }}
            />
          ))}
        </div>
      </div>
    </section>
  );
}

function Legend() {
  return (
    <ul class="kinds" aria-hidden="true">
      {["work", "waiting", "queued", "failed"].map((kind) => (
        <li key={kind} class={kind}>
          {kind}
        </li>
      ))}
    </ul>
  );
}

interface RowProps {
  row: TimelineRow;
  place: number;
  isCurrent: boolean;
  isChosen: boolean;
  onToggle: () => void;
  onChoose: () => void;
}

function Row({ row, place, isCurrent, isChosen, onToggle, onChoose }: RowProps) {
  return (
    <div
      id={`row${place}`}
      class={`step l${row.level} ${row.state}${isChosen ? " chosen" : ""}${isCurrent ? " current" : ""}`}
      role="row"
      aria-level={row.level}
      aria-rowindex={place + 1}
      aria-expanded={row.isOpen ?? undefined}
      style={{ transform: `translateY(${place * ROW}px)` }}
      onClick={onChoose}
    >
      <span role="gridcell" class="label">
        {row.isOpen === null ? (
          <i class="twist" />
        ) : (
          <button
            type="button"
            class="twist"
            tabIndex={-1}
            aria-label={`${row.isOpen ? "Close" : "Open"} ${printable(row.label)}`}
            onClick={(event) => {
              event.stopPropagation();
              onToggle();
            }}
          >
            {row.isOpen ? "⌄" : "›"}
          </button>
        )}
        <StateSign state={row.state} />
        <bdi title={printable(row.label)}>{printable(row.label)}</bdi> {row.times && <small>{row.times}</small>}
      </span>
      <span role="gridcell" class="hidden">
        {printable(row.words)}
      </span>
      <span role="gridcell" class="length" title={printable(row.words)}>
        <Changing text={row.length} />
      </span>
    </div>
  );
}
