/** The field that finds: steps of the run that is shown, and runs and playbooks by their text. */

import { useEffect, useRef, useState } from "preact/hooks";

import { go, linkTo } from "../address";
import { useKeys } from "./keys";
import { printable } from "./value";

const SHOWN = 8;

interface Steps {
  names: readonly string[];
  choose: (name: string) => void;
}

let shownSteps: Steps | null = null;

/** Let the field find the steps of the run that a view shows. */
export function useFoundSteps(names: readonly string[], choose: (name: string) => void): void {
  useEffect(() => {
    shownSteps = { names, choose };
    return () => {
      shownSteps = null;
    };
  });
}

export function Finder() {
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState("");
  const [place, setPlace] = useState(0);
  const [isOpen, setIsOpen] = useState(false);
  useKeys({ "/": () => input.current?.focus() });
  const wanted = text.trim().toLowerCase();
  const steps = wanted ? (shownSteps?.names.filter((name) => name.toLowerCase().includes(wanted)).slice(0, SHOWN) ?? []) : [];
  const search = () => go(linkTo(["runs"], new URLSearchParams(wanted ? { q: text.trim(), since: "all" } : {})));
  const choose = (index: number) => {
    const name = steps[index];
    setIsOpen(false);
    if (name === undefined) return search();
    setText("");
    input.current?.blur();
    shownSteps?.choose(name);
  };
  const hasList = isOpen && steps.length > 0;
  return (
    <form
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        choose(place);
      }}
      onFocusOut={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setIsOpen(false);
      }}
    >
      <input
        ref={input}
        type="text"
        list={undefined}
        role="combobox"
        aria-label="Find a run, step or playbook"
        placeholder="Find a run, step or playbook"
        aria-expanded={hasList}
        aria-controls="found"
        aria-activedescendant={hasList ? `found${place}` : undefined}
        autoComplete="off"
        value={text}
        onFocus={() => setIsOpen(true)}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setPlace(0);
          setIsOpen(true);
        }}
        onKeyDown={(event) => {
          if (event.key === "ArrowDown") setPlace(Math.min(place + 1, steps.length));
          else if (event.key === "ArrowUp") setPlace(Math.max(place - 1, 0));
          else if (event.key === "Escape") input.current?.blur();
          else return;
          event.preventDefault();
        }}
      />
      <kbd aria-hidden="true">/</kbd>
      <ul id="found" role="listbox" aria-label="Found" hidden={!hasList}>
        {[...steps, null].map((name, index) => (
          <li
            key={name ?? "\n"}
            id={`found${index}`}
            role="option"
            aria-selected={index === place}
            onPointerDown={(event) => {
              event.preventDefault();
              choose(index);
            }}
          >
            {name === null ? <i>Runs with “{printable(text.trim())}”</i> : <bdi>{printable(name)}</bdi>}
          </li>
        ))}
      </ul>
    </form>
  );
}
