/** Times, with UTC for hover, focus and copying. */

import { useEffect, useState } from "preact/hooks";

import { clock, utc } from "../format";

export function Time({ at }: { at: string | number | null | undefined }) {
  if (at === null || at === undefined) return null;
  return (
    <time dateTime={new Date(at).toISOString()} title={utc(at)}>
      {clock(at)}
    </time>
  );
}

/** A text that changes with time. Each one is a new element, so a wider one at the right edge moves nothing. */
export function Changing({ text }: { text: string }) {
  return <span key={text}>{text}</span>;
}

/** Return the present time in milliseconds. It changes each second while `isLive`. */
export function useNow(isLive: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!isLive) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [isLive]);
  return now;
}
