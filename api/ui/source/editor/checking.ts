/** The checks of a draft: a request 100 ms after the last key. */

import { useEffect, useRef, useState } from "preact/hooks";

import { describe, useShared } from "../parts/context";
import type { Service } from "../service";
import type { Draft } from "./answers";

const AFTER_KEY_MS = 100;
const AFTER_MOVE_MS = 250;
const AFTER_ERROR_MS = 3000;
/** How long a request may take before a newer text ends it. The first one starts a process. */
const MAX_MS = 5000;

export interface Checked {
  draft: Draft | null;
  /** The text that `draft` is about. */
  text: string | null;
  checkedAt: number;
  problem: string;
}

const UNCHECKED: Checked = { draft: null, text: null, checkedAt: 0, problem: "" };

/**
 * Return the latest answer for a text, with the names in scope at a line.
 *
 * One request is under way at most. When it is answered, the text of that moment follows. It is aborted only if it
 * takes long: an aborted request costs the service a process.
 */
export function useChecks(text: string | null, line: number): Checked {
  const { service } = useShared();
  const [checked, setChecked] = useState(UNCHECKED);
  const checks = useRef<Checks | null>(null);
  useEffect(() => {
    const running = new Checks(service, setChecked);
    checks.current = running;
    return () => running.stop();
  }, [service]);
  useEffect(() => {
    if (text !== null) checks.current?.want(text, line);
  }, [text, line]);
  return checked;
}

class Checks {
  private wanted: { text: string; line: number } | null = null;
  private sent: { text: string; line: number } | null = null;
  private control: AbortController | null = null;
  private startedAt = 0;
  private timer = 0;
  private isStopped = false;

  constructor(
    private readonly service: Service,
    private readonly setChecked: (update: (old: Checked) => Checked) => void,
  ) {}

  want(text: string, line: number): void {
    this.wanted = { text, line };
    clearTimeout(this.timer);
    const delay = this.sent === null ? 0 : this.sent.text === text ? AFTER_MOVE_MS : AFTER_KEY_MS;
    this.timer = window.setTimeout(() => void this.send(), delay);
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.control?.abort();
  }

  private async send(): Promise<void> {
    const { wanted } = this;
    if (this.control !== null) {
      if (Date.now() - this.startedAt > MAX_MS) this.control.abort();
      return;
    }
    if (!wanted || this.isStopped || wanted === this.sent) return;
    const control = new AbortController();
    this.control = control;
    this.sent = wanted;
    this.startedAt = Date.now();
    try {
      const options = { method: "POST", body: wanted, signal: control.signal };
      const draft = await this.service.read<Draft>("/plan/draft", options);
      this.setChecked(() => ({ draft, text: wanted.text, checkedAt: Date.now(), problem: "" }));
    } catch (error) {
      if (!control.signal.aborted) {
        const problem = describe(error);
        this.setChecked((old) => ({ ...old, problem }));
        clearTimeout(this.timer);
        this.sent = null;
        this.timer = window.setTimeout(() => void this.send(), AFTER_ERROR_MS);
      }
    } finally {
      this.control = null;
    }
    if (this.sent !== null && this.wanted !== this.sent) await this.send();
  }
}
