/** The look of the text, in the colours of the page. CodeMirror adds it to its shadow root. */

import { EditorView } from "@codemirror/view";

const FLOATING = { background: "var(--bg)", border: "1px solid var(--line2)", borderRadius: "6px", boxShadow: "0 4px 16px rgb(0 0 0 / 18%)" };
const BUTTON = {
  font: "inherit",
  color: "var(--accent)",
  background: "none",
  border: "0",
  padding: "2px 0",
  marginRight: "16px",
  minHeight: "24px",
  cursor: "pointer",
  pointerEvents: "auto",
};

export const THEME = EditorView.theme({
  "&": { height: "100%", color: "var(--ink)", background: "var(--bg)", fontSize: "13px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "20px", overflow: "auto" },
  ".cm-content": { caretColor: "var(--ink)", padding: "8px 0" },
  ".cm-cursor": { borderLeftColor: "var(--ink)" },
  ".cm-gutters": { background: "var(--bg)", color: "var(--ink3)", border: "0", paddingLeft: "8px" },
  ".cm-activeLine": { background: "var(--hover)" },
  ".cm-activeLineGutter": { background: "var(--hover)", color: "var(--ink)" },
  ".cm-selectionBackground, &.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground": { background: "var(--line2)" },
  ".cm-selectionMatch, .cm-matchingBracket, &.cm-focused .cm-matchingBracket": { background: "var(--accent-tint)", outline: "1px solid var(--line2)" },
  ".cm-searchMatch": { background: "var(--wait-tint)", outline: "1px solid var(--wait)" },
  ".cm-specialChar": { color: "var(--bad)" },
  ".template, .template *": { color: "var(--wait)" },
  ".hint": { color: "var(--ink3)", fontFamily: "Inter, system-ui, sans-serif", fontSize: "12px", paddingLeft: "24px" },
  ".finding": { textDecoration: "underline wavy 1px", textUnderlineOffset: "3px" },
  ".finding.error": { textDecorationColor: "var(--bad)" },
  ".finding.warning": { textDecorationColor: "var(--wait)" },
  ".finding.note": { textDecorationColor: "var(--accent)" },
  ".added": { background: "var(--ok-tint)" },
  ".removed": { background: "var(--bad-tint)", color: "var(--ink2)", padding: "0 6px", whiteSpace: "pre-wrap" },
  ".cm-tooltip": FLOATING,
  // CodeMirror keeps a tooltip there until it has a place.
  ".cm-tooltip[style*='-10000px']": { visibility: "hidden" },
  ".cm-tooltip.message": { marginTop: "4px", padding: "6px 12px", maxWidth: "620px", font: "13px/20px Inter, system-ui, sans-serif", borderLeftWidth: "3px", zIndex: "10", pointerEvents: "none" },
  "&.completing .cm-tooltip.message": { display: "none" },
  ".message p": { margin: "0" },
  ".message.error": { borderLeftColor: "var(--bad)", background: "var(--bad-tint)" },
  ".message.warning": { borderLeftColor: "var(--wait)", background: "var(--wait-tint)" },
  ".message.note": { borderLeftColor: "var(--accent)", background: "var(--accent-tint)" },
  ".message button": BUTTON,
  ".cm-tooltip.cm-tooltip-autocomplete": { zIndex: "20" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul": { fontFamily: "var(--mono)", maxHeight: "240px" },
  ".cm-tooltip.cm-tooltip-autocomplete > ul > li": { padding: "2px 8px", lineHeight: "20px", color: "var(--ink)" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { background: "var(--accent-tint)", color: "var(--ink)" },
  ".cm-completionDetail": { color: "var(--ink2)", fontStyle: "normal", fontFamily: "Inter, system-ui, sans-serif", fontSize: "12px" },
  ".cm-completionMatchedText": { color: "var(--accent)", textDecoration: "none" },
  ".cm-tooltip.cm-completionInfo": { padding: "6px 10px", font: "12px/16px Inter, system-ui, sans-serif", color: "var(--ink2)" },
  ".cm-panels": { background: "var(--sunk)", color: "var(--ink)", borderColor: "var(--line)" },
  ".cm-textfield": { background: "var(--bg)", color: "var(--ink)", border: "1px solid var(--edge)" },
  ".cm-button": { background: "var(--bg)", color: "var(--ink)", border: "1px solid var(--line2)", backgroundImage: "none" },
});
