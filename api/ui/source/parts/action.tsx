/** Buttons of actions. One that is not allowed stays in its place, and says why. None changes its width. */

import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";

import { useShared } from "./context";

interface Props {
  children: ComponentChildren;
  /** Why the action is not allowed now. Empty: it is allowed. */
  reason?: string;
  isPrimary?: boolean;
  class?: string;
  /** Whether the action changes a run, for which the key needs a scope. */
  changes?: boolean;
  onAct: () => unknown;
}

export function Action({ children, reason = "", isPrimary = false, class: name = "", changes = true, onAct }: Props) {
  const { service } = useShared();
  const id = useId();
  const [isBusy, setIsBusy] = useState(false);
  const why = reason || (changes && service.isReader ? "needs scope `run`" : "");
  const isOff = Boolean(why) || isBusy;
  const act = async () => {
    if (isOff) return;
    setIsBusy(true);
    try {
      await onAct();
    } finally {
      setIsBusy(false);
    }
  };
  return (
    <>
      <button
        type="button"
        class={[name, isPrimary && !why ? "primary" : ""].filter(Boolean).join(" ")}
        aria-disabled={isOff ? "true" : undefined}
        aria-describedby={why ? id : undefined}
        title={why || undefined}
        onClick={() => void act()}
      >
        {children}
      </button>
      {why && (
        <span class="hidden" id={id}>
          {why}
        </span>
      )}
    </>
  );
}

interface OneOfProps {
  words: readonly string[];
  shown: string;
}

/** One of some words, as wide as the longest, so that nothing moves when another one is shown. */
export function OneOf({ words, shown }: OneOfProps) {
  return (
    <span class="words">
      {words.map((word) => (
        <span key={word} class={word === shown ? "" : "spare"}>
          {word}
        </span>
      ))}
    </span>
  );
}

interface CertainProps {
  word: string;
  /** The word of the second click, which acts. */
  certain: string;
  reason?: string;
  class?: string;
  onAct: () => unknown;
}

/** A button that acts at its second click. Without it, the first one is forgotten when the focus leaves. */
export function CertainAction({ word, certain, reason = "", class: name = "", onAct }: CertainProps) {
  const [isSure, setIsSure] = useState(false);
  return (
    <span class="certain" onFocusOut={() => setIsSure(false)}>
      <Action
        reason={reason}
        class={`${name}${isSure ? " bad" : ""}`}
        onAct={() => {
          if (!isSure) return setIsSure(true);
          setIsSure(false);
          return onAct();
        }}
      >
        <OneOf words={[word, certain]} shown={isSure ? certain : word} />
      </Action>
    </span>
  );
}
