/** Values as trees. They are open to depth 2. Long texts are cut, and controls are shown as symbols. */

import { useState } from "preact/hooks";

import { count } from "../format";

const MAX_TEXT = 2000;
const MAX_MEMBERS = 200;
const OPEN_DEPTH = 2;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

/** Return a text whose controls, also those of the direction of writing, are visible symbols. */
export function printable(text: string): string {
  return text.replace(CONTROLS, (control) => {
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

function Tree({ value, depth }: { value: object; depth: number }) {
  const [shown, setShown] = useState(MAX_MEMBERS);
  const isList = Array.isArray(value);
  const members = Object.entries(value);
  if (!members.length) return <span class="value null">{isList ? "[]" : "{}"}</span>;
  const words = isList ? `${count(members.length)} items` : `${count(members.length)} keys`;
  return (
    <details class="tree" open={depth < OPEN_DEPTH}>
      <summary>{words}</summary>
      <ul>
        {members.slice(0, shown).map(([name, member]) => (
          <li key={name}>
            <bdi class="key">{printable(name)}</bdi> <Value value={member} depth={depth + 1} />
          </li>
        ))}
      </ul>
      {members.length > shown && (
        <button type="button" onClick={() => setShown(shown + MAX_MEMBERS)}>
          Show {count(Math.min(MAX_MEMBERS, members.length - shown))} more of {count(members.length)}
        </button>
      )}
    </details>
  );
}

/** A text that is cut until a person wants all of it. */
export function LongText({ text, quoted = false }: { text: string; quoted?: boolean }) {
  const [all, setAll] = useState(false);
  const cut = !all && text.length > MAX_TEXT;
  const shown = printable(cut ? text.slice(0, MAX_TEXT) : text);
  return (
    <>
      <bdi class={quoted ? "value string" : "text"}>{quoted ? `"${shown}${cut ? "…" : ""}"` : shown}</bdi>
      {cut && (
        <button type="button" onClick={() => setAll(true)}>
          Show all {count(text.length)} characters
        </button>
      )}
    </>
  );
}
