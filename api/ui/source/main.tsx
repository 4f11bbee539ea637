/** The page of NoETL. It starts here: the service, the key, the head of all views, and the view of the address. */

import { render } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";

import { followLinks, go, linkTo, setBase, useAddress } from "./address";
import type { InboxEntry, Page } from "./answers";
import { clock, count } from "./format";
import { announce, LiveRegion } from "./parts/announce";
import { SharedContext, useAnswer } from "./parts/context";
import { useDialog } from "./parts/dialog";
import { Finder } from "./parts/finder";
import { keysAreOn, switchKeys, useKeys } from "./parts/keys";
import { lazy } from "./parts/lazy";
import { RunsView } from "./runs/view";
import { Service } from "./service";
import type { Connection } from "./stream";

const EditView = lazy(async () => (await import("./editor/view")).EditView);
const CompareView = lazy(async () => (await import("./compare/view")).CompareView);
const PlaybooksView = lazy(async () => (await import("./playbooks/view")).PlaybooksView);
const FoundRun = lazy(async () => (await import("./run/resolve")).FoundRun);
const TriggersView = lazy(async () => (await import("./triggers/view")).TriggersView);
const NotificationsView = lazy(async () => (await import("./notifications/view")).NotificationsView);
const LimitsView = lazy(async () => (await import("./limits/view")).LimitsView);
const InboxView = lazy(async () => (await import("./inbox/view")).InboxView);

const CONNECTION: Record<Connection, string> = {
  live: "Live",
  polling: "Every few seconds",
  lost: "Reconnecting",
  paused: "Paused",
};

/** The shortest pause between two reads of the number of open questions, in milliseconds. */
const COUNT_MS = 15_000;

interface KeyRequest {
  isWrong: boolean;
  resolve: (key: string) => void;
}

function App({ root }: { root: string }) {
  const [connection, setConnection] = useState<[Connection, number | undefined]>(["live", undefined]);
  const [keyRequest, setKeyRequest] = useState<KeyRequest | null>(null);
  const service = useMemo(() => {
    const askForKey = (isWrong: boolean, other: Promise<null>) =>
      Promise.race([new Promise<string>((resolve) => setKeyRequest({ isWrong, resolve })), other]).finally(() => setKeyRequest(null));
    return new Service(root, askForKey);
  }, []);
  const shared = useMemo(
    () => ({ service, setConnection: (name: Connection, lastData?: number) => setConnection([name, lastData]) }),
    [service],
  );
  useEffect(() => {
    if (connection[0] === "lost") announce("The connection is lost. The page tries to connect again.");
  }, [connection[0]]);
  return (
    <SharedContext.Provider value={shared}>
      <LiveRegion />
      <Head connection={connection} />
      <View />
      {keyRequest && (
        <KeyDialog
          isWrong={keyRequest.isWrong}
          onKey={keyRequest.resolve}
        />
      )}
    </SharedContext.Provider>
  );
}

function View() {
  const { parts } = useAddress();
  const [name, id] = parts;
  useEffect(() => {
    if (!name) go(linkTo(["runs"]), { replace: true });
    document.title = [id, name, "NoETL"].filter(Boolean).join(" · ");
  }, [name, id]);
  if (!name || (name === "runs" && !id)) return <RunsView />;
  if (name === "runs" && id) return <FoundRun key={id} id={id} />;
  if (name === "inbox") return <InboxView />;
  if (name === "playbooks" && ((id === "new" && parts.length === 2) || parts[2] === "edit")) return <EditView key={parts.join("/")} />;
  if (name === "playbooks") return <PlaybooksView />;
  if (name === "triggers") return <TriggersView />;
  if (name === "notifications") return <NotificationsView />;
  if (name === "limits") return <LimitsView />;
  if (name === "compare") return <CompareView />;
  return (
    <main>
      <p class="empty">
        There is no such page. <a href={linkTo(["runs"])}>All runs</a>
      </p>
    </main>
  );
}

function Head({ connection: [connection, lastData] }: { connection: [Connection, number | undefined] }) {
  const { parts } = useAddress();
  const inbox = useAnswer<Page<InboxEntry>>("/inbox?order=expires", { everyMs: COUNT_MS, grows: true, readsOn: true });
  const [showsKeys, setShowsKeys] = useState(false);
  const waiting = inbox.data?.items.length ?? 0;
  useKeys({ "?": () => setShowsKeys(true) });
  return (
    <header class="top">
      <a class="name" href={linkTo(["runs"])}>
        NoETL
      </a>
      <nav aria-label="Views">
        <a href={linkTo(["runs"])} aria-current={parts[0] === "runs" ? "page" : undefined}>
          Runs
        </a>
        <a href={linkTo(["playbooks"])} aria-current={parts[0] === "playbooks" ? "page" : undefined}>
          Playbooks
        </a>
        <a href={linkTo(["inbox"])} aria-current={parts[0] === "inbox" ? "page" : undefined}>
          Inbox <span class="place">{waiting > 0 && <b class="badge">{inbox.data?.next_cursor ? `${count(waiting)}+` : count(waiting)}</b>}</span>
        </a>
        <a href={linkTo(["triggers"])} aria-current={parts[0] === "triggers" ? "page" : undefined}>
          Triggers
        </a>
        <a href={linkTo(["notifications"])} aria-current={parts[0] === "notifications" ? "page" : undefined}>
          Notifications
        </a>
        <a href={linkTo(["limits"])} aria-current={parts[0] === "limits" ? "page" : undefined}>
          Limits
        </a>
      </nav>
      <Finder />
      <span class={`connection ${connection}`}>
        {CONNECTION[connection]}
        {connection === "lost" && lastData !== undefined && <small>, last data {clock(lastData)}</small>}
      </span>
      <button type="button" aria-label="Light or dark" onClick={switchTheme}>
        ◐
      </button>
      {showsKeys && <Keys onClose={() => setShowsKeys(false)} />}
    </header>
  );
}

function switchTheme(): void {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const shown = document.documentElement.dataset["theme"] ?? (isDark ? "dark" : "light");
  document.documentElement.dataset["theme"] = shown === "dark" ? "light" : "dark";
}

const KEYS: [keys: string, meaning: string][] = [
  ["/", "find"],
  ["j k", "next and previous run"],
  ["x", "select a run"],
  ["Enter", "open a run"],
  [".", "show new runs"],
  ["Esc", "close"],
  ["[ ]", "previous and next step"],
  ["n", "next failed step"],
  ["f", "show the complete graph"],
  ["+ −", "zoom"],
  ["g t b", "graph, timeline, both"],
  ["c", "copy the link"],
  ["Ctrl .", "editor: apply the fix"],
  ["F8", "editor: next finding"],
  ["Ctrl S", "editor: save"],
  ["Esc Tab", "editor: leave the text"],
  ["y", "copy the command"],
];

function Keys({ onClose }: { onClose: () => void }) {
  const [areOn, setAreOn] = useState(keysAreOn);
  const dialog = useDialog();
  return (
    <dialog ref={dialog} onClose={onClose} aria-label="Keys">
      <h2>Keys</h2>
      <dl class="pairs">
        {KEYS.map(([keys, meaning]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
      <label>
        <input
          type="checkbox"
          checked={areOn}
          onChange={(event) => {
            switchKeys(event.currentTarget.checked);
            setAreOn(keysAreOn());
          }}
        />{" "}
        Single keys work
      </label>
      <form method="dialog">
        <button>Close</button>
      </form>
    </dialog>
  );
}

function KeyDialog({ isWrong, onKey }: { isWrong: boolean; onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  const dialog = useDialog();
  return (
    <dialog ref={dialog} onCancel={(event) => event.preventDefault()} aria-label="Key">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim()) onKey(key.trim());
        }}
      >
        <h2>{isWrong ? "The key is not valid any more." : "This service needs a key."}</h2>
        <p>
          Paste a key to go on. It stays in the memory of this browser. An operator makes one with <code>noetl keys create</code>.
        </p>
        <input type="password" aria-label="Key" autoComplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        <button type="submit" class="primary">
          Use the key
        </button>
      </form>
    </dialog>
  );
}

const script = document.currentScript ?? document.querySelector<HTMLScriptElement>("script[data-root]");
const root = script?.getAttribute("data-root") ?? "";
setBase(`${root}/ui`);
addEventListener("click", followLinks);
render(<App root={root} />, document.getElementById("app") as HTMLElement);
