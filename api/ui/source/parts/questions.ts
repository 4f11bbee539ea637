/** Changes of the open questions, as streams and answers of the page show them. The number at the inbox follows. */

import { useEffect, useRef } from "preact/hooks";

import { CHANGED } from "../service";

/**
 * How long after a change the number is read at most, and how long not again, in milliseconds. The time until then
 * is random, because all pages see a change at once.
 */
const SPREAD_MS = 2000;
const PAUSE_MS = 5000;

let timer = 0;
let last = -Infinity;

/** Let the page read the number of open questions soon. Many changes lead to one read. */
export function noteQuestions(): void {
  if (timer) return;
  const read = () => {
    timer = 0;
    last = Date.now();
    dispatchEvent(new Event(CHANGED));
  };
  timer = window.setTimeout(read, Math.max(last + PAUSE_MS - Date.now(), 0) + Math.random() * SPREAD_MS);
}

/** Report when the questions of a view change. `questions` is their text; undefined before it is known. */
export function useQuestions(questions: string | undefined): void {
  const known = useRef(questions);
  useEffect(() => {
    if (known.current !== undefined && known.current !== questions) noteQuestions();
    known.current = questions;
  }, [questions]);
}
