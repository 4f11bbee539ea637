/** What every view can use: the service, and the state of its connection. */

import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";

import { ConnectionLost, Problem, type Service } from "../service";
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

/** Read a path, again when it changes, and every `everyMs`. With `keeps`, the data of the last path stay meanwhile. */
export function useAnswer<T>(path: string | null, { keeps = false, everyMs = 0 } = {}): Loaded<T> {
  const { service } = useShared();
  const [count, setCount] = useState(0);
  const [answer, setAnswer] = useState<{ path: string; data: T } | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    if (path === null) return;
    const control = new AbortController();
    service
      .read<T>(path, { signal: control.signal })
      .then((data) => {
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
    const timer = setInterval(() => document.hidden || setCount((n) => n + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  const isShown = answer !== null && (keeps || answer.path === path);
  return { data: isShown ? answer.data : null, problem, reload: () => setCount((n) => n + 1) };
}

/** Return the sentence for an error of a request. Other errors are thrown. */
export function describe(error: unknown): string {
  if (error instanceof Problem) return error.detail || error.title;
  if (error instanceof ConnectionLost) return error.message;
  throw error;
}
