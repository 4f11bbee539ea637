/** The text of the editor: CodeMirror in a shadow root, where its styles need no exception of the content policy. */

import { acceptCompletion, autocompletion, completionKeymap, completionStatus } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, HighlightStyle, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, RangeSetBuilder } from "@codemirror/state";
import {
  Decoration,
  drawSelection,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  keymap,
  lineNumbers,
  tooltips,
  ViewPlugin,
  type ViewUpdate,
} from "@codemirror/view";
import { tags } from "@lezer/highlight";

import { changeMarks } from "./changes";
import { completeWith, type Known } from "./complete";
import { hints } from "./hints";
import { applyFix, explain, goToNext, markAt, marks } from "./marks";
import { THEME } from "./theme";

const TEMPLATE = /\{\{.*?\}\}/g;

/** Colour the templates, which the grammar of YAML reads as plain text. */
const templates = ViewPlugin.fromClass(
  class {
    decorations;
    constructor(view: EditorView) {
      this.decorations = find(view);
    }
    update(update: ViewUpdate) {
      if (update.docChanged || update.viewportChanged) this.decorations = find(update.view);
    }
  },
  { decorations: (plugin) => plugin.decorations },
);

function find(view: EditorView) {
  const builder = new RangeSetBuilder<Decoration>();
  const mark = Decoration.mark({ class: "template" });
  for (const { from, to } of view.visibleRanges) {
    for (const match of view.state.doc.sliceString(from, to).matchAll(TEMPLATE)) {
      builder.add(from + match.index, from + match.index + match[0].length, mark);
    }
  }
  return builder.finish();
}

const colours = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--ok)" },
  { tag: [tags.comment, tags.lineComment], color: "var(--ink3)" },
  { tag: [tags.number, tags.bool, tags.null], color: "var(--wait)" },
]);

export interface TextOptions {
  text: string;
  isReadOnly: boolean;
  known: () => Known;
  onChange: (text: string) => void;
  onLine: (line: number) => void;
  onMarks: (state: EditorState) => void;
  onExplain: (code: string) => void;
}

/** Show a text in an element, and return its view. */
export function showText(host: HTMLElement, options: TextOptions): EditorView {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const state = EditorState.create({
    doc: options.text,
    extensions: [
      lineNumbers(),
      highlightActiveLine(),
      highlightActiveLineGutter(),
      highlightSpecialChars({ addSpecialChars: /[\u202a-\u202e\u2066-\u2069]/ }),
      drawSelection(),
      history(),
      bracketMatching(),
      highlightSelectionMatches(),
      search({ top: true }),
      yaml(),
      indentUnit.of("  "),
      syntaxHighlighting(colours),
      templates,
      tooltips({ position: "fixed" }),
      marks,
      hints,
      changeMarks,
      autocompletion({ override: [completeWith(options.known)], icons: false, activateOnTypingDelay: 50, interactionDelay: 0 }),
      EditorView.editorAttributes.of((view) => (completionStatus(view.state) ? { class: "completing" } : null)),
      EditorState.readOnly.of(options.isReadOnly),
      EditorView.contentAttributes.of({ "aria-label": "Text of the playbook", tabindex: "0", "aria-description": "Tab indents. Escape, then Tab leaves the text." }),
      EditorView.domEventHandlers({ beforeinput: replaceSelection }),
      keymap.of([
        { key: "Mod-.", run: (view) => applyFix(view, markAt(view.state)) },
        { key: "F8", run: goToNext },
        { key: "Tab", run: acceptCompletion },
        ...completionKeymap,
        ...searchKeymap,
        ...historyKeymap,
        ...defaultKeymap,
        indentWithTab,
      ]),
      EditorView.updateListener.of((update) => {
        if (update.docChanged) options.onChange(update.state.doc.toString());
        const line = update.state.doc.lineAt(update.state.selection.main.head).number;
        if (update.selectionSet || update.docChanged) options.onLine(line);
        if (update.startState.field(marks) !== update.state.field(marks)) options.onMarks(update.state);
        for (const transaction of update.transactions) {
          for (const effect of transaction.effects) if (effect.is(explain)) options.onExplain(effect.value);
        }
      }),
      THEME,
    ],
  });
  return new EditorView({ state, parent: root, root });
}

/** Replace a selection without the browser, which would write inline styles. The content policy forbids them. */
function replaceSelection(event: InputEvent, view: EditorView): boolean {
  if (event.inputType !== "insertText" || event.data === null || view.composing || view.state.selection.main.empty) return false;
  view.dispatch(view.state.replaceSelection(event.data), { userEvent: "input.type", scrollIntoView: true });
  return true;
}

/** Move the cursor to a line, and show it. */
export function goToLine(view: EditorView, line: number): void {
  const { from } = view.state.doc.line(Math.min(Math.max(line, 1), view.state.doc.lines));
  view.dispatch({ selection: { anchor: from }, effects: EditorView.scrollIntoView(from, { y: "center" }) });
}
