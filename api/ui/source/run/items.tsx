/** The items of a loop: counts, a strip of cells, and a list with a filter. */

import { useEffect, useMemo, useState } from "preact/hooks";

import type { LoopItem, LoopItems, StepData } from "../answers";
import { count, plural } from "../format";
import { describe, useShared } from "../parts/context";
import { StateSign, toneOf, wordOf } from "../parts/state";
import { LongText, printable, Value } from "../parts/value";
import { query } from "../service";
import { reasonOf } from "./error";
import type { Place } from "./rows";
import { Section } from "./section";

const MAX_CELLS = 300;
const CELLS_PER_ROW = 60;
/** How many items are read at once. More are read if a person wants them. */
const MAX_ITEMS = 10_000;
const ITEMS_PER_PAGE = 1000;
const SHOWN = 20;
const URGENCY = ["failed", "retrying", "waiting", "open", "pending", "cancelled", "succeeded"];

interface Props {
  data: StepData;
  item: number | null;
  loaded: LoadedItems;
  onMore: () => void;
  onChoose: (place: Place) => void;
}

export interface LoadedItems {
  first: LoopItems;
  items: Map<number, LoopItem>;
  /** What is read next, or null after the last item. */
  cursor: string | null;
  key: string;
}

/** Read the items of a visit page by page, up to a number that grows by `more`, unless it has no loop. */
export function useItems(data: StepData, hasLoop: boolean, version: string): { loaded: LoadedItems | null; problem: string; more: () => void } {
  const { service } = useShared();
  const [loaded, setLoaded] = useState<LoadedItems | null>(null);
  const [problem, setProblem] = useState("");
  const [wanted, setWanted] = useState(MAX_ITEMS);
  const key = `${data.workflow_id} ${data.visit} ${version} ${data.step}`;
  useEffect(() => {
    if (!hasLoop) return;
    const control = new AbortController();
    const read = async () => {
      const known = loaded?.key === key ? loaded : null;
      const items = new Map(known?.items);
      for (let cursor = known ? known.cursor : ""; cursor !== null && items.size < wanted; ) {
        const path = `/workflows/${data.workflow_id}/items${query({ step: data.step, visit: data.visit, limit: ITEMS_PER_PAGE, cursor })}`;
        const page: LoopItems = await service.read(path, { signal: control.signal });
        for (const item of page.items) items.set(item.number, item);
        cursor = page.next_cursor;
        if (cursor === null || items.size >= wanted) setLoaded({ first: page, items, cursor, key });
      }
    };
    read().catch((error: unknown) => {
      if (!control.signal.aborted) setProblem(describe(error));
    });
    return () => control.abort();
  }, [key, hasLoop, wanted]);
  return { loaded, problem, more: () => setWanted(wanted + MAX_ITEMS) };
}

export function Items({ data, item: chosen, loaded, onMore, onChoose }: Props) {
  const [state, setState] = useState<string | null>(null);
  const { counts } = loaded.first;
  const shownState = state ?? (counts["failed"] ? "failed" : "");
  const items = useMemo(() => {
    const all = [...loaded.items.values()].filter((item) => !shownState || item.state === shownState);
    return all.sort((a, b) => URGENCY.indexOf(a.state) - URGENCY.indexOf(b.state) || a.number - b.number);
  }, [loaded, shownState]);
  const [shown, setShown] = useState(SHOWN);
  const total = loaded.first.total ?? 0;
  const note = Object.entries(counts).map(([name, number]) => `${count(number)} ${wordOf(name).toLowerCase()}`);
  const jump = (number: number | null) => onChoose({ step: data.step, visit: data.visit, ...(number ? { item: number } : {}) });
  const picked = chosen === null ? undefined : (loaded.items.get(chosen) ?? (chosen <= total ? { number: chosen, state: loaded.cursor === null ? "unknown" : "unread" } : undefined));
  return (
    <Section name="items" title="Items" note={note.join(", ")}>
      <Strip loaded={loaded} total={total} chosen={chosen} onJump={jump} />
      <div class="chips">
        <span role="group" aria-label="State of the items">
          {Object.entries(counts).map(([name, number]) => (
            <button type="button" key={name} aria-pressed={shownState === name} onClick={() => setState(shownState === name ? "" : name)}>
              <StateSign state={signOf(name)} /> {wordOf(signOf(name))} <b>{count(number)}</b>
            </button>
          ))}
        </span>
        <label>
          Item{" "}
          <input
            type="number"
            min="1"
            max={total}
            value={chosen ?? ""}
            onChange={(event) => {
              const number = Number(event.currentTarget.value);
              jump(Number.isInteger(number) && number >= 1 && number <= total ? number : null);
            }}
          />{" "}
          of {count(total)}
        </label>
      </div>
      {picked && <PickedItem item={picked} />}
      <ol class="items">
        {items.slice(0, shown).map((item) => (
          <li key={item.number}>
            <button type="button" class="link" onClick={() => jump(item.number)}>
              <StateSign state={signOf(item.state)} /> <b>{count(item.number)}</b>
            </button>{" "}
            {item.error && <span class="bad">{printable(reasonOf(item.error))}</span>} {item.value && <code>{printable(item.value)}</code>}
          </li>
        ))}
      </ol>
      {items.length > shown && (
        <button type="button" onClick={() => setShown(shown + 5 * SHOWN)}>
          Show more of {count(items.length)}
        </button>
      )}
      {loaded.cursor !== null && (
        <p class="more">
          {count(loaded.items.size)} of {count(total)} items are read.{" "}
          <button type="button" onClick={onMore}>
            Read {count(Math.min(MAX_ITEMS, total - loaded.items.size))} more
          </button>
        </p>
      )}
    </Section>
  );
}

function signOf(state: string): string {
  return state === "open" ? "running" : state;
}

/** One item with what is recorded of it. */
function PickedItem({ item }: { item: LoopItem }) {
  return (
    <div class="picked">
      <p>
        <StateSign state={signOf(item.state)} /> <b>Item {count(item.number)}</b>{" "}
        {item.state === "unread" ? "It is not read yet." : item.state === "unknown" ? "Its state is not recorded." : wordOf(signOf(item.state))}
        {item.attempts ? `, ${plural(item.attempts, "attempt")}` : ""}
      </p>
      {item.error && (
        <p class="bad">
          <LongText text={item.error.message} /> <code>{item.error.type}</code>
        </p>
      )}
      {item.value && <code>{printable(item.value)}</code>}
      {item.input && <Value value={item.input} />}
    </div>
  );
}

interface StripProps {
  loaded: LoadedItems;
  total: number;
  chosen: number | null;
  onJump: (number: number) => void;
}

/** At most 300 cells. Each shows the worst state of its items, and leads to the first item in that state. */
function Strip({ loaded, total, chosen, onJump }: StripProps) {
  const cells = useMemo(() => cellsOf(loaded, total), [loaded, total]);
  if (!cells.length) return null;
  const columns = CELLS_PER_ROW;
  const rows = Math.ceil(cells.length / columns);
  const share = total / cells.length;
  return (
    <svg
      class="strip"
      viewBox={`0 0 ${columns * 8} ${rows * 10}`}
      role="img"
      aria-label={`${count(total)} items in ${count(cells.length)} cells`}
      onClick={(event) => {
        const index = Number((event.target as Element).getAttribute("data-cell"));
        const cell = cells[index];
        if ((event.target as Element).hasAttribute("data-cell") && cell) onJump(cell.number);
      }}
    >
      {cells.map(({ state }, index) => {
        const isChosen = chosen !== null && Math.min(Math.floor((chosen - 1) / share), cells.length - 1) === index;
        const place = { x: (index % columns) * 8 + 0.5, y: Math.floor(index / columns) * 10 + 0.5 };
        return (
          <rect key={index} data-cell={index} class={`${toneOf(signOf(state))} ${state}${isChosen ? " chosen" : ""}`} {...place} width="7" height="9" rx="1" />
        );
      })}
    </svg>
  );
}

export function cellsOf({ items }: LoadedItems, total: number): { state: string; number: number }[] {
  const cells = Math.min(total, MAX_CELLS);
  return Array.from({ length: cells }, (_, index) => {
    const first = Math.floor((index * total) / cells) + 1;
    const last = Math.floor(((index + 1) * total) / cells);
    let worst = { state: "unknown", number: first };
    for (let number = first; number <= last; number += 1) {
      const state = items.get(number)?.state ?? "unknown";
      const isWorse = worst.state === "unknown" ? state !== "unknown" : state !== "unknown" && URGENCY.indexOf(state) < URGENCY.indexOf(worst.state);
      if (isWorse) worst = { state, number };
    }
    return worst;
  });
}
