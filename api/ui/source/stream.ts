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
  const reading: Reading = { last: "", lastData: Date.now(), hasStream: true };
  let delay: number = RETRY_MS[0];
  let rest: number = POLL_MS[0];
  while (!signal.aborted) {
    await untilVisible(signal, follower.onConnection);
    if (signal.aborted) return;
    const end = reading.hasStream ? await readStream(service, follower, reading, signal) : "none";
    if (end === "complete" || signal.aborted) return;
    if (end === "lost") {
      follower.onConnection("lost", reading.lastData);
      await pause(delay, signal);
      delay = Math.min(delay * 2, RETRY_MS[1]);
    } else if (end === "none") {
      reading.hasStream = false;
      follower.onConnection("polling");
      await pause(rest, signal);
    } else {
      delay = RETRY_MS[0];
    }
    try {
      if (!signal.aborted && !document.hidden) {
        const hasChanged = await follower.poll();
        reading.lastData = Date.now();
        rest = hasChanged ? POLL_MS[0] : Math.min(rest * 1.5, POLL_MS[1]);
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 404) throw error;
      if (!(error instanceof ConnectionLost) && !(error instanceof Problem) && !signal.aborted) throw error;
    }
    if (end === "closed") await pause(RETRY_MS[0], signal);
  }
}

interface Reading {
  /** The id of the last event. */
  last: string;
  lastData: number;
  hasStream: boolean;
}

/** How a stream ended: with its last event, by the service, by this tab, by the network, or it never began. */
type StreamEnd = "complete" | "closed" | "hidden" | "lost" | "none";

async function readStream(service: Service, follower: Follower, reading: Reading, signal: AbortSignal): Promise<StreamEnd> {
  const attempt = new AbortController();
  const stop = () => attempt.abort();
  signal.addEventListener("abort", stop);
  const hidden = whenHidden(stop);
  try {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (reading.last) headers["Last-Event-ID"] = reading.last;
    const response = await service.send(follower.path(), { headers, signal: attempt.signal });
    follower.onConnection("live");
    for await (const frame of readFrames(response, () => (reading.lastData = Date.now()))) {
      reading.last = frame.id || reading.last;
      follower.onFrame(frame);
      if (frame.event === "end") return "complete";
    }
    return "closed";
  } catch (error) {
    if (attempt.signal.aborted) return "hidden";
    if (error instanceof Problem && error.status === 404) throw error;
    return error instanceof Problem && (error.status === 406 || error.status === 501) ? "none" : "lost";
  } finally {
    hidden();
    signal.removeEventListener("abort", stop);
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
