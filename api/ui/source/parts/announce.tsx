/** The one live region of the page: a sentence at most every five seconds, about ends, failures, waits and connection. */

import { useEffect, useState } from "preact/hooks";

const PAUSE_MS = 5000;
let latest = "";
let listener: (() => void) | null = null;

/** Say a sentence to screen readers. Of several within five seconds, the last is said. */
export function announce(sentence: string): void {
  latest = sentence;
  listener?.();
}

export function LiveRegion() {
  const [said, setSaid] = useState("");
  useEffect(() => {
    let timer = 0;
    const say = () => {
      timer = 0;
      if (!latest) return;
      setSaid(latest);
      latest = "";
      timer = window.setTimeout(say, PAUSE_MS);
    };
    listener = () => {
      if (!timer) say();
    };
    return () => {
      clearTimeout(timer);
      listener = null;
    };
  }, []);
  return (
    <p class="hidden" role="status">
      {said}
    </p>
  );
}
