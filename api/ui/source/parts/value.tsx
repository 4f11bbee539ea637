/** Values as trees. They are open to depth 2, long ones are virtual, and controls are shown as symbols. */

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";

import { count, plural, size } from "../format";

const MAX_TEXT = 2000;
const MAX_SHOWN = 1024 * 1024;
const VIRTUAL_FROM = 200;
const MAX_ROWS = 100_000;
const OPEN_DEPTH = 2;
const ROW = 20;
const HEIGHT = 420;
const EXTRA_ROWS = 10;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

const SGR = /\u001b\[[0-9;]*m/g;

/** Return a text without colours, whose other controls, also those of the direction of writing, are visible symbols. */
export function printable(text: string): string {
  return text.replace(SGR, "").replace(CONTROLS, (control) => {
    const code = control.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : "\ufffd";
  });
}

export function Value({ value, depth = 0 }: { value: unknown; depth?: number }) {
  if (typeof value === "string") return <LongText text={value} quoted />;
  if (value === null || typeof value !== "object") {
    return <span class={`value ${value === null ? "null" : typeof value}`}>{String(value)}</span>;
  }
  return <Tree value={value} depth={depth} />;
}

/** A value that may be too large to show. `name` is that of the file with it. */
export function LargeValue({ value, name }: { value: unknown; name: string }) {
  const text = useMemo(() => JSON.stringify(value) ?? "null", [value]);
  if (text.length <= MAX_SHOWN) return <Value value={value} />;
  return (
    <p>
      {size(text.length)}, too large to show. <Download text={JSON.stringify(value, null, 2)} name={name} />
    </p>
  );
}

/** Save a text as a file. Characters that names of files cannot have become underscores. */
export function saveFile(text: string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name.replace(/[^\p{L}\p{N}._-]+/gu, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function Download({ text, name }: { text: string; name: string }) {
  return (
    <button type="button" onClick={() => saveFile(text, name)}>
      Download
    </button>
  );
}

interface TreeRow {
  path: string;
  depth: number;
  name: string;
  value: unknown;
  /** The number of members, and null for what has none. */
  members: number | null;
  isOpen: boolean;
}

/** Return the rows of the open part of a tree. `changed` has the paths that are not as depth would have them. */
function rowsOf(value: object, changed: ReadonlySet<string>, depth: number): TreeRow[] {
  const rows: TreeRow[] = [];
  const visit = (name: string, member: unknown, level: number, path: string) => {
    if (rows.length >= MAX_ROWS) return;
    const isTree = member !== null && typeof member === "object" && Object.keys(member).length > 0;
    const isOpen = isTree && (level + depth < OPEN_DEPTH) !== changed.has(path);
    rows.push({ path, depth: level, name, value: member, members: isTree ? Object.keys(member).length : null, isOpen });
    if (isOpen) for (const [key, inner] of Object.entries(member as object)) visit(key, inner, level + 1, `${path}/${key}`);
  };
  visit("", value, 0, "");
  return rows;
}

function Tree({ value, depth }: { value: object; depth: number }) {
  const [changed, setChanged] = useState<ReadonlySet<string>>(new Set());
  const [top, setTop] = useState(0);
  const [picked, setPicked] = useState<TreeRow | null>(null);
  const rows = useMemo(() => rowsOf(value, changed, depth), [value, changed, depth]);
  const toggle = (path: string) => {
    const next = new Set(changed);
    if (!next.delete(path)) next.add(path);
    setChanged(next);
  };
  if (!Object.keys(value).length) return <span class="value null">{Array.isArray(value) ? "[]" : "{}"}</span>;
  if (rows.length <= VIRTUAL_FROM) {
    return (
      <div class="tree">
        {rows.map((row) => (
          <Row key={row.path} row={row} onToggle={toggle}>
            <Leaf row={row} />
          </Row>
        ))}
      </div>
    );
  }
  const first = Math.max(Math.floor(top / ROW) - EXTRA_ROWS, 0);
  const last = Math.min(Math.ceil((top + HEIGHT) / ROW) + EXTRA_ROWS, rows.length);
  return (
    <div class="tree virtual">
      <div class="window" tabIndex={0} role="group" aria-label={`${count(rows.length)} rows`} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
        <div style={{ height: `${rows.length * ROW}px` }}>
          <div style={{ transform: `translateY(${first * ROW}px)` }}>
            {rows.slice(first, last).map((row) => (
              <Row key={row.path} row={row} onToggle={toggle}>
                <Cut row={row} onPick={() => setPicked(row)} />
              </Row>
            ))}
          </div>
        </div>
      </div>
      {picked && (
        <p>
          <bdi class="key">{printable(picked.name)}</bdi> <LongText text={String(picked.value)} quoted />
        </p>
      )}
    </div>
  );
}

function Row({ row, onToggle, children }: { row: TreeRow; onToggle: (path: string) => void; children: ComponentChildren }) {
  const words = row.members === null ? "" : plural(row.members, Array.isArray(row.value) ? "item" : "key");
  return (
    <div class={`member d${Math.min(row.depth, 12)}`}>
      {row.members === null ? (
        <>
          {row.depth > 0 && <bdi class="key">{printable(row.name)}</bdi>} {children}
        </>
      ) : (
        <button type="button" class="fold" aria-expanded={row.isOpen} onClick={() => onToggle(row.path)}>
          <i aria-hidden="true">{row.isOpen ? "▾" : "▸"}</i> {row.depth > 0 && <bdi class="key">{printable(row.name)}</bdi>} {words}
        </button>
      )}
    </div>
  );
}

function Leaf({ row: { value } }: { row: TreeRow }) {
  if (value !== null && typeof value === "object") return <span class="value null">{Array.isArray(value) ? "[]" : "{}"}</span>;
  return <Value value={value} />;
}

/** A value on one line. A text that is longer opens below the tree. */
function Cut({ row, onPick }: { row: TreeRow; onPick: () => void }) {
  const { value } = row;
  if (typeof value !== "string" || value.length <= 80) return <Leaf row={row} />;
  return (
    <button type="button" class="fold value string" onClick={onPick}>
      "{printable(value.slice(0, 80))}…" {size(value.length)}
    </button>
  );
}

interface TextProps {
  text: string;
  quoted?: boolean;
  /** How a part is drawn, if it is not only made printable. */
  draw?: (text: string) => ComponentChildren;
}

/** A text that is cut until a person wants all of it. */
export function LongText({ text, quoted = false, draw = printable }: TextProps) {
  const [all, setAll] = useState(false);
  const cut = !all && text.length > MAX_TEXT;
  const shown = draw(cut ? text.slice(0, MAX_TEXT) : text);
  const mark = quoted ? '"' : "";
  return (
    <>
      <bdi class={quoted ? "value string" : "text"}>
        {mark}
        {shown}
        {cut ? "…" : ""}
        {mark}
      </bdi>
      {cut && (
        <button type="button" onClick={() => setAll(true)}>
          Show {size(text.length)}
        </button>
      )}
    </>
  );
}
