/** Event streams, read with `fetch`, because EventSource cannot send a key. */

import { ConnectionLost, Problem, RETRY_MS, type Service } from "./service";

export interface Frame {
  event: string;
  id: string;
  data: unknown;
}

export type Connection = "live" | "polling" | "lost" | "paused";

const HIDDEN_MS = 60_000;

/** The shortest and the longest time between two polls, in milliseconds. It grows while nothing changes. */
const POLL_MS = [2000, 15_000] as const;

/** `lastData` is when the service was heard last, in milliseconds. */
export type OnConnection = (connection: Connection, lastData?: number) => void;

export interface Follower {
  /** The path of the stream, from what is known already. */
  path: () => string;
  onFrame: (frame: Frame) => void;
  /** Called where there is no stream, every few seconds, and once after each interruption. Return whether something changed. */
  poll: () => Promise<boolean>;
  onConnection: OnConnection;
}

/**
 * Follow a stream until the signal is aborted. A lost stream is opened again from its last event. Where the
 * service has no streams, it is polled. A tab that is hidden for a minute closes its stream.
 */
export async function follow(service: Service, follower: Follower, signal: AbortSignal): Promise<void> {
  let last = "";
  let delay: number = RETRY_MS[0];
  let rest: number = POLL_MS[0];
  let lastData = Date.now();
  while (!signal.aborted) {
    await untilVisible(signal, follower.onConnection);
    if (signal.aborted) return;
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    const hidden = whenHidden(stop);
    let hasEnded = false;
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await service.send(follower.path(), { headers, signal: attempt.signal });
      follower.onConnection("live");
      delay = RETRY_MS[0];
      for await (const frame of readFrames(response, () => (lastData = Date.now()))) {
        last = frame.id || last;
        follower.onFrame(frame);
        if (frame.event === "end") return;
      }
      hasEnded = true;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status === 404) throw error;
      if (error instanceof Problem && (error.status === 406 || error.status === 501)) {
        follower.onConnection("polling");
        await pause(rest, signal);
      } else if (!attempt.signal.aborted) {
        follower.onConnection("lost", lastData);
        await pause(delay, signal);
        delay = Math.min(delay * 2, RETRY_MS[1]);
      }
    } finally {
      hidden();
      signal.removeEventListener("abort", stop);
    }
    try {
      if (!signal.aborted && !document.hidden) {
        const hasChanged = await follower.poll();
        lastData = Date.now();
        rest = hasChanged ? POLL_MS[0] : Math.min(rest * 1.5, POLL_MS[1]);
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 404) throw error;
      if (!(error instanceof ConnectionLost) && !(error instanceof Problem) && !signal.aborted) throw error;
    }
    if (hasEnded) await pause(RETRY_MS[0], signal);
  }
}

/** Yield the frames of a stream of server-sent events (WHATWG HTML, section 9.2.6). */
export async function* readFrames(response: Response, onBytes: () => void): AsyncGenerator<Frame> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const frame = parseFrame(part);
        if (frame) yield frame;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function parseFrame(text: string): Frame | null {
  const frame = { event: "message", id: "", data: "" };
  for (const line of text.split("\n")) {
    const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") frame.event = value;
    else if (name === "id") frame.id = value;
    else if (name === "data") frame.data += value;
  }
  return frame.data ? { ...frame, data: JSON.parse(frame.data) as unknown } : null;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}

/** Call `stop` when the tab has been hidden for a minute. Return a function that ends the watch. */
function whenHidden(stop: () => void): () => void {
  let timer = 0;
  const change = () => {
    clearTimeout(timer);
    if (document.hidden) timer = window.setTimeout(stop, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", change);
  change();
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", change);
  };
}

function untilVisible(signal: AbortSignal, onConnection: OnConnection): Promise<void> {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  onConnection("paused");
  return new Promise((resolve) => {
    const done = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", done);
  });
}
