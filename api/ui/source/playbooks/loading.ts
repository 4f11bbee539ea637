/** Data of playbooks: read again from time to time, and kept when the playbook is removed meanwhile. */

import { useEffect, useState } from "preact/hooks";

import { describe, useShared } from "../parts/context";
import { Problem, type Options } from "../service";
import type { PlaybookDocument, PlanAnswer } from "./answers";
import { playbookPath } from "./addresses";

/** How often a shown playbook is read again, in milliseconds. */
const CHECK_MS = 15_000;

export interface Read<T> {
  data: T | null;
  problem: string;
  /** The status of the problem, or 0. */
  status: number;
}

const NOTHING = { key: "", data: null, problem: "", status: 0 };

/** Make a request, again when its key changes, and every `everyMs`. Data of the same key stay on a problem. */
export function useRequest<T>(request: { path: string; options?: Options } | null, everyMs = 0): Read<T> {
  const { service } = useShared();
  const key = request === null ? "" : `${request.path} ${JSON.stringify(request.options?.body ?? null)}`;
  const [answer, setAnswer] = useState<Read<T> & { key: string }>(NOTHING);
  const [count, setCount] = useState(0);
  useEffect(() => {
    if (request === null) return;
    const control = new AbortController();
    service
      .read<T>(request.path, { ...request.options, signal: control.signal })
      .then((data) => setAnswer({ key, data, problem: "", status: 0 }))
      .catch((error: unknown) => {
        if (control.signal.aborted) return;
        const status = error instanceof Problem ? error.status : 0;
        setAnswer((old) => ({ key, data: old.key === key ? old.data : null, problem: describe(error), status }));
      });
    return () => control.abort();
  }, [key, count]);
  useEffect(() => {
    if (!everyMs) return;
    const timer = setInterval(() => document.hidden || setCount((n) => n + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return answer.key === key ? answer : NOTHING;
}

/** Read a version of a playbook, or the newest one. */
export function usePlaybook(name: string, version: string | null): Read<PlaybookDocument> {
  return useRequest<PlaybookDocument>({ path: playbookPath(name, version) }, CHECK_MS);
}

/** Read the plan of a playbook, as a reference or as text; null reads nothing. */
export function usePlan(playbook: { name: string; version: string } | string | null, draws = false): Read<PlanAnswer> {
  const path = draws ? "/plan?include=drawing" : "/plan";
  return useRequest<PlanAnswer>(playbook === null ? null : { path, options: { method: "POST", body: { playbook } } });
}
