/** The editor of a playbook: its text with findings and completion, and the graph of the draft. */

import type { EditorState } from "@codemirror/state";
import type { EditorView as TextView } from "@codemirror/view";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { askBeforeLeaving, linkTo, replaceAddress, useAddress } from "../address";
import type { DrawnGraph } from "../answers";
import { useAnswer } from "../parts/context";
import { printable } from "../parts/value";
import { Drawing, type NodeMark } from "../drawing/panel";
import type { Draft, Language, Registered } from "./answers";
import { useChecks } from "./checking";
import { Explanation } from "./explanation";
import { Findings, STATES } from "./findings";
import { EditorHead } from "./head";
import { addLook } from "./look";
import { setSchedules } from "./hints";
import { goToNext, marks, setFindings, type Mark } from "./marks";
import { useSaving } from "./saving";
import { readStored, store } from "./storage";
import { goToLine, showText } from "./text";

const EMPTY = `name: my_playbook
steps:
  - name: greet
    run:
      - action: log
        message: hello
`;

addLook();

/** The editor of the playbook of the address, or of a new one. */
export function EditView() {
  const { parts, params } = useAddress();
  const name = parts[2] === "edit" ? (parts[1] as string) : null;
  const version = params.get("version");
  const path = name === null ? null : `/playbooks/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;
  const [opened] = useState(path);
  const registered = useAnswer<Registered>(opened, { keeps: true });
  if (opened === null) return <Editor key="new" name="" opened={null} />;
  if (registered.data) return <Editor key={opened} name={registered.data.name} opened={registered.data} />;
  return (
    <main class="editor">
      {registered.problem ? (
        <p class="problem" role="alert">
          {registered.problem} <a href={linkTo(["playbooks", "new"])}>New playbook</a>
        </p>
      ) : (
        <p class="empty">Reading the playbook …</p>
      )}
    </main>
  );
}

function Editor({ name, opened }: { name: string; opened: Registered | null }) {
  const [base, setBase] = useState(opened);
  const [text, setText] = useState(opened?.source ?? EMPTY);
  const [line, setLine] = useState(() => Number(/^L(\d+)$/.exec(location.hash.slice(1))?.[1]) || 1);
  const [list, setList] = useState<readonly Mark[]>([]);
  const [code, setCode] = useState<string | null>(null);
  const [isStored, setIsStored] = useState(() => readStored(name) !== null);
  const view = useRef<TextView | null>(null);
  const isShown = useRef(true);
  const host = useRef<HTMLDivElement>(null);
  const language = useAnswer<Language>("/language");
  const checked = useChecks(text, line);
  const { draft } = checked;
  const known = useRef<{ language: Language | null; draft: Draft | null }>({ language: null, draft: null });
  known.current.language = language.data;
  if (draft?.is_parsed) known.current.draft = draft;
  const saving = useSaving(base, draft, (registered) => {
    setBase(registered);
    // A person may have typed since the text was sent.
    if (registered.source !== view.current?.state.doc.toString()) return;
    store(name, null);
    if (opened === null && isShown.current) {
      askBeforeLeaving(null);
      replaceAddress(linkTo(["playbooks", registered.name, "edit"]));
    }
  });
  const isChanged = text !== (base?.source ?? EMPTY);
  const save = useRef(() => {});
  useEffect(() => {
    const shown = showText(host.current as HTMLDivElement, {
      text,
      isReadOnly: false,
      known: () => known.current,
      onChange: setText,
      onLine: setLine,
      onMarks: (state: EditorState) => setList(state.field(marks)),
      onExplain: setCode,
    });
    view.current = shown;
    goToLine(shown, line);
    shown.focus();
    return () => {
      isShown.current = false;
      shown.destroy();
    };
  }, []);
  useEffect(() => {
    if (draft && checked.text === view.current?.state.doc.toString()) view.current?.dispatch({ effects: [setFindings.of(draft.diagnostics), setSchedules.of(draft.schedules)] });
  }, [checked]);
  useLeaving(isChanged && !isStored);
  useEffect(() => {
    if (isStored && isChanged) store(name, { text, version: base?.version ?? null, at: Date.now() });
  }, [text, isStored]);
  const replace = (newText: string) => {
    const shown = view.current;
    shown?.dispatch({ changes: { from: 0, to: shown.state.doc.length, insert: newText } });
  };
  const open = (to: number) => {
    if (!view.current) return;
    goToLine(view.current, to);
    view.current.focus();
  };
  return (
    <main
      class="editor"
      onKeyDown={(event) => {
        if (event.key !== "s" || !(event.ctrlKey || event.metaKey) || event.altKey) return;
        event.preventDefault();
        save.current();
      }}
    >
      <EditorHead
        name={name}
        text={text}
        base={base}
        checked={checked}
        saving={saving}
        saveRef={save}
        view={view}
        isStored={isStored}
        onStored={(wanted) => setIsStored(store(name, wanted ? { text, version: base?.version ?? null, at: Date.now() } : null) && wanted)}
        onReplace={replace}
      />
      <div class="panels edit">
        <div class="writing">
          <div class="text" ref={host} />
          <Findings
            marks={list}
            onOpen={(mark) => {
              view.current?.dispatch({ selection: { anchor: mark.from }, scrollIntoView: true });
              view.current?.focus();
            }}
            onNext={() => view.current && goToNext(view.current)}
          />
        </div>
        <Graph draft={draft} line={line} list={list} onLine={open} />
      </div>
      {code && <Explanation code={code} onClose={() => setCode(null)} />}
    </main>
  );
}

/** Ask before a draft is lost. */
function useLeaving(asks: boolean): void {
  useEffect(() => {
    askBeforeLeaving(asks ? "The draft is not saved. Leave the editor, and lose it?" : null);
    if (!asks) return;
    const stop = (event: BeforeUnloadEvent) => event.preventDefault();
    addEventListener("beforeunload", stop);
    return () => removeEventListener("beforeunload", stop);
  }, [asks]);
  useEffect(() => () => askBeforeLeaving(null), []);
}

interface GraphProps {
  draft: Draft | null;
  line: number;
  list: readonly Mark[];
  onLine: (line: number) => void;
}

/** The graph of the last draft without errors. It is dimmed while the text cannot be read. */
function Graph({ draft, line, list, onLine }: GraphProps) {
  const last = useRef<DrawnGraph | null>(null);
  if (draft?.drawing) last.current = draft.drawing;
  const steps = useRef<Draft["steps"]>([]);
  if (draft?.is_parsed) steps.current = draft.steps;
  const stepOf = (place: number) => steps.current.findLast((step) => step.line <= place)?.name ?? null;
  const nodeMarks = useMemo(() => {
    const found = new Map<string, NodeMark>();
    for (const { finding } of list) {
      const step = stepOf(finding.line);
      if (step === null || finding.severity === "note" || found.get(step)?.state === STATES.error) continue;
      found.set(step, { state: STATES[finding.severity], words: finding.message });
    }
    return found;
  }, [list, draft]);
  const graph = last.current;
  if (!graph) {
    const words = draft?.drawing_problem ?? (draft ? "The graph appears when the text has no errors." : "Checking the text …");
    return <p class="empty">{printable(words)}</p>;
  }
  const isOld = draft !== null && !draft.is_parsed;
  const choose = (name: string) => {
    const step = steps.current.find((entry) => entry.name === name);
    if (step) onLine(step.line);
  };
  return (
    <Drawing graph={graph} chosen={stepOf(line)} onChoose={choose} isOld={isOld} marks={nodeMarks}>
      <p class="legend" role="status">
        {isOld ? "The text cannot be read. This is the graph before." : draft?.drawing === null ? "The graph of the last text without errors" : "The graph of the draft"}
      </p>
    </Drawing>
  );
}
