/** The look of the editor. It loads with the editor, so that the first load of the page stays small. */

const LOOK = `
.editor .head { padding: 8px 16px 4px; flex: none; }
.editor .checked { color: var(--ink2); font-size: 12px; width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.editor .title h1 { width: 300px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.editor .actions button, .editor .actions a { width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; justify-content: center; }
.editor .save:disabled { background: var(--bg); color: var(--ink3); border-color: var(--line); }
.editor a.button { display: inline-flex; align-items: center; min-height: 28px; padding: 3px 11px; border: 1px solid var(--line2); border-radius: 6px; color: var(--ink); }
.editor .notice { display: flex; gap: 16px; align-items: center; min-height: 30px; margin: 4px 0 0; font-size: 12px; color: var(--ink2); }
.editor .notice.problem { padding: 0 8px; color: var(--bad); }
.editor .reason { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.panels.edit { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); border-top: 1px solid var(--line); }
.writing { display: grid; grid-template-rows: minmax(0, 1fr) 152px; min-height: 0; min-width: 0; border-right: 1px solid var(--line); }
.writing .text { min-height: 0; min-width: 0; position: relative; contain: size; }
.found { border-top: 1px solid var(--line); display: flex; flex-direction: column; min-height: 0; contain: strict; }
.found header { display: flex; gap: 16px; align-items: center; padding: 4px 16px; font-size: 12px; color: var(--ink2); flex: none; }
.found header span { min-width: 72px; }
.found header button { margin-left: auto; }
.found h2 { font-size: 13px; line-height: 20px; color: var(--ink); }
.found ul { overflow: auto; flex: 1; margin: 0; padding: 0; list-style: none; }
.found li button { display: grid; grid-template-columns: 14px minmax(0, 1fr) auto 150px; gap: 10px; align-items: center; width: 100%; min-height: 28px;
  padding: 2px 16px; border: 0; border-radius: 0; text-align: left; background: none; }
.found li span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.found li code, .found li small { color: var(--ink2); font-size: 12px; text-align: right; }
.graph.old > svg { opacity: 0.45; }
.graph p.legend { margin: 0; right: auto; left: 12px; }
.explanation { max-width: 720px; max-height: 80vh; overflow: auto; }
.explanation pre { background: var(--sunk); padding: 8px 12px; border-radius: 6px; overflow: auto; font: 12px/18px var(--mono); }
.explanation h2 { margin-top: 12px; }
@media (max-width: 1000px) {
  .panels.edit { grid-template-columns: minmax(0, 1fr); grid-template-rows: minmax(0, 3fr) minmax(0, 2fr); }
  .editor .notice .faint { display: none; } .editor .actions { flex-wrap: wrap; } .editor .title h1 { width: auto; max-width: 100%; }
  .editor .actions button, .editor .actions a { width: auto; flex: 1 1 90px; } .found header { flex-wrap: wrap; } .found header button { white-space: nowrap; }
  .writing { grid-template-rows: minmax(0, 1fr) 104px; border-right: 0; }
}
`;

let isAdded = false;

/** Add the styles to the page, once. Style sheets that a script makes are no exception of the content policy. */
export function addLook(): void {
  if (isAdded) return;
  isAdded = true;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(LOOK);
  document.adoptedStyleSheets.push(sheet);
}
