/** Findings in the text: underlined ranges that follow later changes, and the message under the line of the cursor. */

import { EditorState, RangeSetBuilder, StateEffect, StateField, type Text } from "@codemirror/state";
import { Decoration, EditorView, showTooltip, type Tooltip } from "@codemirror/view";

import { printable } from "../parts/value";
import type { Finding, TextEdit } from "./answers";

export interface Mark {
  from: number;
  to: number;
  finding: Finding;
  /** Where the fix replaces text, if there is one. */
  fix: { from: number; to: number; text: string } | null;
}

export const setFindings = StateEffect.define<readonly Finding[]>();

/** Return the offset of a line and a column, which count from 1. The service counts characters, not UTF-16 units. */
export function offsetOf(doc: Text, line: number, column: number): number {
  const { from, text, length } = doc.line(Math.min(Math.max(line, 1), doc.lines));
  let offset = 0;
  for (let left = column - 1; left > 0 && offset < length; left--) offset += (text.codePointAt(offset) ?? 0) > 0xffff ? 2 : 1;
  return from + offset;
}

function rangeOf(doc: Text, range: Omit<TextEdit, "text">): { from: number; to: number } {
  const from = offsetOf(doc, range.line, range.column);
  return { from, to: Math.max(offsetOf(doc, range.end_line, range.end_column), from) };
}

export const marks = StateField.define<readonly Mark[]>({
  create: () => [],
  update(old, transaction) {
    for (const effect of transaction.effects) {
      if (!effect.is(setFindings)) continue;
      const { doc } = transaction.state;
      return effect.value.map((finding) => ({
        ...rangeOf(doc, finding),
        finding,
        fix: finding.fix ? { ...rangeOf(doc, finding.fix), text: finding.fix.text } : null,
      }));
    }
    if (!transaction.docChanged) return old;
    const { changes } = transaction;
    return old.map((mark) => {
      const move = ({ from, to }: { from: number; to: number }) => ({ from: changes.mapPos(from, 1), to: changes.mapPos(to, -1) });
      const touched = mark.fix !== null && changes.touchesRange(mark.fix.from, mark.fix.to);
      const { from, to } = move(mark);
      return { ...mark, from, to: Math.max(from, to), fix: mark.fix && !touched ? { ...mark.fix, ...move(mark.fix) } : null };
    });
  },
  provide: (field) => [
    EditorView.decorations.from(field, decorate),
    showTooltip.compute([field, "selection"], (state) => messageAt(state, state.field(field))),
  ],
});

function decorate(list: readonly Mark[]) {
  return (view: EditorView) => {
    const builder = new RangeSetBuilder<Decoration>();
    const size = view.state.doc.length;
    for (const { from, to, finding } of [...list].sort((a, b) => a.from - b.from || a.to - b.to)) {
      const end = Math.min(Math.max(to, from + 1), size);
      if (from < end) builder.add(from, end, Decoration.mark({ class: `finding ${finding.severity}` }));
    }
    return builder.finish();
  };
}

/** Return the finding at the cursor, else the first one of its line. */
export function markAt(state: EditorState): Mark | null {
  const { head } = state.selection.main;
  const line = state.doc.lineAt(head);
  const here = state.field(marks).filter(({ from }) => from >= line.from && from <= line.to);
  return here.find(({ from, to }) => head >= from && head <= to) ?? here[0] ?? null;
}

/** Replace the text of a fix. Return whether there is one. */
export function applyFix(view: EditorView, mark: Mark | null): boolean {
  if (!mark?.fix || view.state.readOnly) return false;
  const { from, to, text } = mark.fix;
  view.dispatch({ changes: { from, to, insert: text }, selection: { anchor: from + text.length }, userEvent: "input.fix", scrollIntoView: true });
  view.focus();
  return true;
}

const WORDS = { error: "Error", warning: "Warning", note: "Note" };

export const explain = StateEffect.define<string>();

/** Return the message of the finding at the cursor. It floats below its line, so that no line moves. */
function messageAt(state: EditorState, list: readonly Mark[]): Tooltip | null {
  const mark = list.length ? markAt(state) : null;
  if (!mark) return null;
  const { finding } = mark;
  return {
    pos: state.doc.lineAt(mark.from).from,
    above: false,
    strictSide: true,
    create(view) {
      const dom = document.createElement("div");
      dom.className = `message ${finding.severity}`;
      const sentence = dom.appendChild(document.createElement("p"));
      sentence.appendChild(document.createElement("b")).textContent = `${WORDS[finding.severity]}: ${printable(finding.message)}.`;
      if (finding.hint) sentence.append(` ${printable(capitalize(finding.hint))}`);
      const actions = dom.appendChild(document.createElement("p"));
      if (mark.fix) addButton(actions, "Replace", "Ctrl+.", () => applyFix(view, markAt(view.state)));
      addButton(actions, `Explain ${finding.code}`, "", () => view.dispatch({ effects: explain.of(finding.code) }));
      return { dom };
    },
  };
}

function capitalize(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

function addButton(parent: HTMLElement, text: string, title: string, act: () => void): void {
  const button = parent.appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = text;
  if (title) button.title = title;
  button.addEventListener("mousedown", (event) => event.preventDefault());
  button.addEventListener("click", act);
}

/** Move the cursor to the next finding after it, or to the first. */
export function goToNext(view: EditorView): boolean {
  const list = [...view.state.field(marks)].sort((a, b) => a.from - b.from);
  const next = list.find(({ from }) => from > view.state.selection.main.head) ?? list[0];
  if (!next) return false;
  view.dispatch({ selection: { anchor: next.from }, effects: EditorView.scrollIntoView(next.from, { y: "center" }) });
  view.focus();
  return true;
}
