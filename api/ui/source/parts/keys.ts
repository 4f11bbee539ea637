/** Single keys. They do nothing while a person types, and can be switched off. */

import { useEffect, useRef } from "preact/hooks";

let areOn = true;

export function keysAreOn(): boolean {
  return areOn;
}

export function switchKeys(on: boolean): void {
  areOn = on;
}

type Handlers = Record<string, (event: KeyboardEvent) => void>;

/** Handle single keys while a view is shown, and no dialog is over it. Escape always works. */
export function useKeys(handlers: Handlers): void {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (document.querySelector("dialog:modal")) return;
      if (event.key !== "Escape" && (!areOn || isTyping(event.composedPath()[0] ?? null))) return;
      if (event.key === "Enter" && isControl(event.target)) return;
      const handler = latest.current[event.key];
      if (!handler) return;
      event.preventDefault();
      handler(event);
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);
}

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return target.type !== "checkbox" && target.type !== "radio";
  return target.isContentEditable || ["TEXTAREA", "SELECT"].includes(target.tagName);
}

function isControl(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && ["A", "BUTTON", "SUMMARY"].includes(target.tagName);
}
