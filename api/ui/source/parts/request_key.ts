/** Keys by which the service knows a request that it has had before. */

import { useRef } from "preact/hooks";

export interface RequestKey {
  /** Return the key of a request: the same for the same text, because its answer may be lost. */
  keyOf: (text: string) => string;
  /** The request was answered. The same text is another request from now on. */
  forget: () => void;
}

export function useRequestKey(): RequestKey {
  const sent = useRef({ text: "", key: "" });
  return {
    keyOf: (text) => {
      if (sent.current.key === "" || sent.current.text !== text) sent.current = { text, key: randomKey() };
      return sent.current.key;
    },
    forget: () => {
      sent.current = { text: "", key: "" };
    },
  };
}

/** Return a key that no other request has. `randomUUID` exists in secure contexts only. */
function randomKey(): string {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("-");
}
