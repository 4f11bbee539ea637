/** The next firings of schedules, at the ends of their lines. They are no part of the text. */

import { RangeSetBuilder, StateEffect, StateField } from "@codemirror/state";
import { Decoration, EditorView, WidgetType, type DecorationSet } from "@codemirror/view";

import type { DraftSchedule } from "./answers";

export const setSchedules = StateEffect.define<readonly DraftSchedule[]>();

class Hint extends WidgetType {
  constructor(readonly words: string) {
    super();
  }
  override eq(other: Hint): boolean {
    return other.words === this.words;
  }
  toDOM(): HTMLElement {
    const dom = document.createElement("span");
    dom.className = "hint";
    dom.textContent = this.words;
    return dom;
  }
}

/** Return the next firings of a schedule, such as `next: Mon 2026-11-30 02:30, …`. */
function wordsOf({ firings, timezone }: DraftSchedule): string {
  if (!firings.length) return "never fires again";
  const times = firings.map(({ local, note }) => {
    const day = new Date(`${local.slice(0, 10)}T00:00Z`).toLocaleDateString("en", { weekday: "short", timeZone: "UTC" });
    const time = local.slice(17, 19) === "00" ? local.slice(11, 16) : local.slice(11, 19);
    return `${day} ${local.slice(0, 10)} ${time}${note ? ` (${note})` : ""}`;
  });
  return `next: ${times.join(", ")}, ${timezone}`;
}

export const hints = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(old, transaction) {
    for (const effect of transaction.effects) {
      if (!effect.is(setSchedules)) continue;
      const { doc } = transaction.state;
      const builder = new RangeSetBuilder<Decoration>();
      const known = effect.value.filter(({ line }) => line <= doc.lines).sort((a, b) => a.line - b.line);
      for (const schedule of known) {
        const end = doc.line(schedule.line).to;
        builder.add(end, end, Decoration.widget({ widget: new Hint(wordsOf(schedule)), side: 1 }));
      }
      return builder.finish();
    }
    return old.map(transaction.changes);
  },
  provide: (field) => EditorView.decorations.from(field),
});
