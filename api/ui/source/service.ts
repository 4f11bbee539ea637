/** Requests to the service. The key stays in memory. Other tabs get it over a channel, and never from storage. */

import type { Verdict } from "./answers";

export interface ProblemField {
  name: string;
  message: string;
}

/** An answer that is not a success, as a problem document (RFC 9457) or in words of this page. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly fields: ProblemField[] = [],
    /** Why a run cannot continue in another version. */
    readonly verdict: Verdict | null = null,
  ) {
    super(detail || title);
  }
}

/** No answer: the service is away, or the network is. */
export class ConnectionLost extends Error {}

export interface Options {
  method?: string;
  body?: unknown;
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

/** Return the key that a person gives, or null as soon as `other` resolves, because another tab has given one. */
type AskForKey = (isWrong: boolean, other: Promise<null>) => Promise<string | null>;

/** Delay between the attempts to reach the service, in milliseconds. It doubles up to the second number. */
export const RETRY_MS = [1000, 15000] as const;

/** Event of the window after this page has started, answered or changed a run. */
export const CHANGED = "noetl-changed";

export class Service {
  private key = "";
  private asking: Promise<void> | null = null;
  /** Whether the key may not change runs, as an answer has said. */
  isReader = false;
  private closeDialog: (() => void) | null = null;
  private readonly tabs = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("noetl-key");

  /** `root` is the address of the service without a slash at its end. */
  constructor(
    readonly root: string,
    private readonly askForKey: AskForKey,
  ) {
    this.tabs?.addEventListener("message", ({ data }) => {
      if (data === "request" && this.key) this.tabs?.postMessage({ key: this.key });
      else if (typeof data === "object" && typeof data?.key === "string") this.useKey(data.key);
    });
    this.tabs?.postMessage("request");
  }

  /** Return the decoded body of an answer. A wrong or missing key is asked for, and the request repeated. */
  async read<T>(path: string, options: Options = {}): Promise<T> {
    const response = await this.send(path, options);
    return (response.status === 204 ? null : await response.json()) as T;
  }

  /** Return a successful answer. Raises Problem, ConnectionLost, or the error of an aborted request. */
  async send(path: string, options: Options = {}): Promise<Response> {
    for (;;) {
      const used = this.key;
      const response = await this.fetch(path, options);
      if (response.ok && options.method && path.startsWith("/workflows")) dispatchEvent(new Event(CHANGED));
      if (response.ok || response.status === 304) return response;
      // Channels need another scope than runs.
      if (response.status === 403 && options.method && !path.startsWith("/channels")) this.isReader = true;
      if (response.status !== 401) throw await readProblem(response);
      if (this.key === used) await this.changeKey(used !== "");
    }
  }

  private useKey(key: string): void {
    this.key = key;
    this.isReader = false;
    this.closeDialog?.();
  }

  private async fetch(path: string, { method = "GET", body, signal, headers = {} }: Options): Promise<Response> {
    const sent: Record<string, string> = { Accept: "application/json", ...headers };
    if (this.key) sent["Authorization"] = `Bearer ${this.key}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const init: RequestInit = { method, headers: sent, credentials: "omit", cache: "no-store" };
    if (body !== undefined) init.body = JSON.stringify(body);
    if (signal) init.signal = signal;
    try {
      return await fetch(this.root + path, init);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ConnectionLost("The service cannot be reached.");
    }
  }

  /** Ask once, however many requests wait for the key. */
  private changeKey(isWrong: boolean): Promise<void> {
    this.asking ??= this.readKey(isWrong).finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  /** Wait for a key of the person, or of another tab. */
  private async readKey(isWrong: boolean): Promise<void> {
    const other = new Promise<null>((resolve) => (this.closeDialog = () => resolve(null)));
    const key = await this.askForKey(isWrong, other);
    this.closeDialog = null;
    if (key === null) return;
    this.useKey(key);
    this.tabs?.postMessage({ key });
  }
}

async function readProblem(response: Response): Promise<Problem> {
  try {
    const { title, detail, fields, inputs, verdict } = await response.json();
    const wrong = [...(fields ?? []), ...(inputs ?? [])];
    return new Problem(response.status, title ?? response.statusText, detail ?? "", wrong, verdict ?? null);
  } catch {
    return new Problem(response.status, response.statusText || `Status ${response.status}`, "");
  }
}

/** Return a query such as `?status=failed&status=waiting`, without what is empty. */
export function query(values: Record<string, string | number | readonly string[] | null | undefined>): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") params.append(name, String(item));
    }
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}
