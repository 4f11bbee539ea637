/** What every view can use: the service, and the state of its connection. */

import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";

import type { Page } from "../answers";
import { isSame } from "../same";
import { CHANGED, ConnectionLost, Problem, type Service } from "../service";
import type { OnConnection } from "../stream";

export interface Shared {
  service: Service;
  setConnection: OnConnection;
}

export const SharedContext = createContext<Shared | null>(null);

export function useShared(): Shared {
  const shared = useContext(SharedContext);
  if (!shared) throw new Error("A view is outside of its context.");
  return shared;
}

export interface Loaded<T> {
  data: T | null;
  problem: string;
  reload: () => void;
}

/** How much the pause between two reads grows if both have the same answer, and how long it is at most, as a multiple. */
const GROWTH = 1.5;
const MAX_GROWTH = 4;

/**
 * Read a path, again when it changes, and every `everyMs`. With `keeps`, the data of the last path stay meanwhile.
 * With `grows`, the pause grows while the answer stays the same, and it is read again after this page has changed something.
 * With `readsOn`, the path is one of a list, and the answer its next page that is not empty.
 */
export function useAnswer<T>(path: string | null, { keeps = false, everyMs = 0, grows = false, readsOn = false } = {}): Loaded<T> {
  const { service } = useShared();
  const [count, setCount] = useState(0);
  const [answer, setAnswer] = useState<{ path: string; data: T } | null>(null);
  const [problem, setProblem] = useState("");
  const pause = useRef(everyMs);
  const last = useRef<T | null>(null);
  useEffect(() => {
    if (path === null) return;
    const control = new AbortController();
    const read = (address: string) => service.read<T>(address, { signal: control.signal });
    (readsOn ? readOn(path, read) : read(path))
      .then((data) => {
        pause.current = grows && isSame(last.current, data) ? Math.min(pause.current * GROWTH, everyMs * MAX_GROWTH) : everyMs;
        last.current = data;
        setAnswer({ path, data });
        setProblem("");
      })
      .catch((error: unknown) => {
        if (!control.signal.aborted) setProblem(describe(error));
      });
    return () => control.abort();
  }, [path, count]);
  useEffect(() => {
    if (!everyMs) return;
    let timer = 0;
    const wait = () => {
      timer = window.setTimeout(() => (document.hidden ? wait() : setCount((n) => n + 1)), pause.current);
    };
    wait();
    return () => clearTimeout(timer);
  }, [everyMs, count]);
  useEffect(() => {
    if (!grows) return;
    const change = () => setCount((n) => n + 1);
    addEventListener(CHANGED, change);
    return () => removeEventListener(CHANGED, change);
  }, [grows]);
  const isShown = answer !== null && (keeps || answer.path === path);
  return { data: isShown ? answer.data : null, problem, reload: () => setCount((n) => n + 1) };
}

/** Read a page of a list, and the next ones while they are empty although others follow. */
async function readOn<T>(path: string, read: (address: string) => Promise<T>): Promise<T> {
  for (let address = path; ; ) {
    const answer = await read(address);
    const { items, next_cursor } = answer as Page<unknown>;
    if (items.length || !next_cursor) return answer;
    const next = new URL(path, location.href);
    next.searchParams.set("cursor", next_cursor);
    address = `${next.pathname}${next.search}`;
  }
}

/** Return the sentence for an error of a request. Other errors are thrown. */
export function describe(error: unknown): string {
  if (error instanceof Problem) return error.detail || error.title;
  if (error instanceof ConnectionLost) return error.message;
  throw error;
}
