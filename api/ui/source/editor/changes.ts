/** The changes of a draft, in the text itself: lines that were added are coloured, and removed ones stand above. */

import { type Extension, RangeSetBuilder, StateEffect, StateField, type Text } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView, WidgetType } from "@codemirror/view";
import { diffLines } from "diff";

/** How long a comparison may take, in milliseconds. Then nothing is marked. */
const MAX_MS = 200;

const setOriginal = StateEffect.define<string | null>();

class Removed extends WidgetType {
  constructor(private readonly text: string) {
    super();
  }
  override eq(other: Removed): boolean {
    return other.text === this.text;
  }
  toDOM(): HTMLElement {
    const element = document.createElement("div");
    element.className = "removed";
    element.textContent = this.text.replace(/\n$/, "");
    return element;
  }
}

interface Changes {
  original: string | null;
  decorations: DecorationSet;
}

const changes = StateField.define<Changes>({
  create: () => ({ original: null, decorations: Decoration.none }),
  update(old, transaction) {
    let { original } = old;
    for (const effect of transaction.effects) if (effect.is(setOriginal)) original = effect.value;
    if (original === old.original && !transaction.docChanged) return old;
    return { original, decorations: original === null ? Decoration.none : compare(original, transaction.state.doc) };
  },
  provide: (field) => EditorView.decorations.from(field, ({ decorations }) => decorations),
});

function compare(original: string, doc: Text): DecorationSet {
  const builder = new RangeSetBuilder<Decoration>();
  const parts = diffLines(original.replace(/\r\n?/g, "\n"), doc.toString(), { timeout: MAX_MS }) ?? [];
  let line = 1;
  for (const { added, removed, count, value } of parts) {
    const place = doc.line(Math.min(line, doc.lines)).from;
    if (removed) builder.add(place, place, Decoration.widget({ widget: new Removed(value), block: true, side: -1 }));
    else if (added) {
      for (let number = line; number < line + count && number <= doc.lines; number++) {
        const { from } = doc.line(number);
        builder.add(from, from, Decoration.line({ class: "added" }));
      }
    }
    if (!removed) line += count;
  }
  return builder.finish();
}

export const changeMarks: Extension = changes;

/** Show the changes since a text. Null: show none. */
export function showChanges(view: EditorView, original: string | null): void {
  view.dispatch({ effects: setOriginal.of(original) });
}
