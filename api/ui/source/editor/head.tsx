/** The head of the editor: what is edited, when it was checked, and what can be done with it. */

import type { EditorView as TextView } from "@codemirror/view";
import { useEffect, useState } from "preact/hooks";

import { linkTo } from "../address";
import { clock } from "../format";
import { useNow } from "../parts/times";
import { printable } from "../parts/value";
import type { Registered } from "./answers";
import type { Checked } from "./checking";
import { showChanges } from "./changes";
import { isTemporary, reasonAgainst, saveLabel, type Saving } from "./saving";
import { readStored, store } from "./storage";

interface Props {
  name: string;
  text: string;
  base: Registered | null;
  checked: Checked;
  saving: Saving;
  /** What the key for saving does. While the text is checked or saved, the key takes effect afterwards. */
  saveRef: { current: () => void };
  view: { current: TextView | null };
  isStored: boolean;
  onStored: (wanted: boolean) => void;
  onReplace: (text: string) => void;
}

export function EditorHead(props: Props) {
  const { name, text, base, checked, saving, saveRef, view } = props;
  const [compared, setCompared] = useState<Registered | null>(null);
  // The text for which the key was pressed too early.
  const [wanted, setWanted] = useState<string | null>(null);
  const reason = reasonAgainst(text, base, checked, saving);
  const label = saveLabel(text, base, checked);
  const title = base?.name ?? checked.draft?.name ?? name;
  saveRef.current = () => {
    if (!reason) void saving.save(text);
    else if (isTemporary(reason)) setWanted(text);
  };
  useEffect(() => {
    if (wanted === null || (wanted === text && isTemporary(reason))) return;
    setWanted(null);
    if (wanted === text) saveRef.current();
  }, [wanted, text, reason]);
  const compare = () => {
    const other = compared ? null : base;
    if (view.current) showChanges(view.current, other?.source ?? null);
    setCompared(other);
  };
  const shown = compared ?? base;
  return (
    <header class="head">
      <nav class="trail" aria-label="Place">
        <a href={linkTo(["playbooks"])}>Playbooks</a>
        <span aria-hidden="true">›</span>
        {base ? (
          <a href={linkTo(["playbooks", base.name])}>
            <bdi>{printable(base.name)}</bdi>
          </a>
        ) : (
          <span>New playbook</span>
        )}
      </nav>
      <div class="title">
        <h1>
          <bdi>{printable(title || "New playbook")}</bdi>
        </h1>
        <span class="tag">{base ? `draft, from ${printable(base.version)}` : "draft"}</span>
        <div class="actions">
          <CheckTime checked={checked} text={text} />
          <button type="button" aria-pressed={compared !== null} disabled={!base} title={base ? undefined : "Nothing is saved yet."} onClick={compare}>
            Compare{shown ? ` with ${printable(shown.version)}` : ""}
          </button>
          {base ? (
            <a class="button" href={linkTo(["playbooks", base.name, "start"], new URLSearchParams({ version: base.version }))}>
              Start with…
            </a>
          ) : (
            <button type="button" disabled title="Save the draft first.">
              Start with…
            </button>
          )}
          <button type="button" class="primary save" disabled={reason !== ""} title={reason || "Ctrl S"} onClick={() => saveRef.current()}>
            <span key={label}>{label}</span>
          </button>
        </div>
      </div>
      <Notice {...props} reason={reason} />
    </header>
  );
}

function CheckTime({ checked, text }: { checked: Checked; text: string }) {
  const now = useNow(true);
  const seconds = Math.max(Math.round((now - checked.checkedAt) / 1000), 0);
  const words = checked.text !== text ? "Checking …" : seconds < 60 ? `Checked ${seconds} s ago` : `Checked at ${clock(checked.checkedAt)}`;
  return <span class="checked">{checked.problem || words}</span>;
}

/** One line of fixed height: a conflict, a problem, a stored draft, or why the draft cannot be saved. */
function Notice(props: Props & { reason: string }) {
  const { name, text, base, saving, isStored, onStored, onReplace, reason } = props;
  const [stored, setStored] = useState(() => readStored(name));
  const { conflict } = saving;
  if (conflict) {
    const at = conflict.registered_at ?? conflict.created_at;
    const by = conflict.registered_by ? ` by ${printable(conflict.registered_by)}` : " by another key";
    const diff = base && linkTo(["playbooks", conflict.name, "diff"], new URLSearchParams({ a: base.version, b: conflict.version }));
    return (
      <p class="notice problem" role="alert">
        <bdi>{`${printable(conflict.version)} was saved${at ? ` at ${clock(Date.parse(at))}` : ""}${by}.`}</bdi>{" "}
        {diff && (
          <a href={diff} target="_blank" rel="noreferrer">
            Compare
          </a>
        )}{" "}
        <button type="button" onClick={saving.accept}>
          Continue from {printable(conflict.version)}
        </button>
      </p>
    );
  }
  if (saving.problem) {
    return (
      <p class="notice problem" role="alert">
        {printable(saving.problem)}
      </p>
    );
  }
  if (stored && stored.text !== text) {
    const answer = (uses: boolean) => {
      if (uses) onReplace(stored.text);
      else store(name, null);
      if (!uses) onStored(false);
      setStored(null);
    };
    return (
      <p class="notice">
        This browser has a draft of {clock(stored.at)}.{" "}
        <button type="button" onClick={() => answer(true)}>
          Use it
        </button>{" "}
        <button type="button" onClick={() => answer(false)}>
          Delete it
        </button>
      </p>
    );
  }
  return (
    <p class="notice">
      <label>
        <input type="checkbox" checked={isStored} onChange={(event) => onStored(event.currentTarget.checked)} /> Keep the draft in this browser
      </label>
      <span class="reason">{reason && `Not saved: ${reason}`}</span>
      {base && text === base.source && <a href={linkTo(["playbooks", base.name, "versions", base.version, "flight"])}>Runs in flight</a>}
      <span class="faint">Tab indents. Esc, then Tab leaves the text.</span>
    </p>
  );
}
