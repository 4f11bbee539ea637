/** What a run needs in another version: values of names, and the new names of steps. */

import { useState } from "preact/hooks";

import type { Verdict } from "../answers";
import type { DeclaredInput } from "../playbooks/answers";
import { InputField } from "../playbooks/field";
import { readTexts, type Texts } from "../playbooks/inputs";

type RequiredValue = Verdict["required"][number];

export interface SwitchValues {
  /** The values and the names of steps for the service, and what is wrong with the texts. */
  given: Record<string, unknown>;
  renamed: Record<string, unknown>;
  mistake: string;
  /** Add fields for values that a verdict requires. They stay when their values are given. */
  learn: (required: readonly RequiredValue[]) => void;
  /** Another version needs other values. */
  forget: () => void;
  fields: FieldsProps;
}

interface FieldsProps {
  required: readonly RequiredValue[];
  texts: Texts;
  onText: (name: string, text: string) => void;
}

export function useSwitchValues(): SwitchValues {
  const [required, setRequired] = useState<readonly RequiredValue[]>([]);
  const [texts, setTexts] = useState<Texts>({});
  const { input, errors } = readTexts(Object.fromEntries(required.map((value) => [value.name, fieldOf(value)])), texts);
  const [others, renamed] = [readObject(texts[OTHERS] ?? ""), readObject(texts[NAMES] ?? "")];
  const wrong = Object.entries(errors)[0];
  return {
    given: { ...others, ...input },
    renamed: renamed ?? {},
    mistake: wrong ? `${wrong[0]}: ${wrong[1]}` : others && renamed ? "" : "Other values and new names must be JSON objects.",
    learn: (found) => setRequired((known) => [...known, ...found.filter(({ name }) => !known.some((value) => value.name === name))]),
    forget: () => setRequired([]),
    fields: { required, texts, onText: (name, text) => setTexts((known) => ({ ...known, [name]: text })) },
  };
}

/** Keys of the texts that are no value: no name of a playbook has a space. */
const OTHERS = "other values";
const NAMES = "names of steps";

export function SwitchFields({ required, texts, onText }: FieldsProps) {
  return (
    <>
      <fieldset class="needs">
        <legend>Values that the version needs</legend>
        {!required.length && <p class="note">None are known. A check shows those that the run lacks.</p>}
        {required.map((value) => (
          <InputField
            key={value.name}
            id={`needs-${value.name}`}
            name={value.line ? `${value.name}, line ${value.line}` : value.name}
            field={fieldOf(value)}
            text={texts[value.name] ?? ""}
            error={undefined}
            onText={(text) => onText(value.name, text)}
          />
        ))}
      </fieldset>
      <JsonFields texts={texts} onText={onText} />
    </>
  );
}

/** Other values, such as those of inputs, and the new names of steps. */
export function JsonFields({ texts, onText }: Omit<FieldsProps, "required">) {
  const fields: [key: string, label: string][] = [
    [OTHERS, "Values of inputs and names, as JSON"],
    [NAMES, "New names of steps by their old ones, as JSON"],
  ];
  return (
    <details>
      <summary>Other values, and steps with new names</summary>
      {fields.map(([key, label]) => (
        <label key={key}>
          {label}
          <textarea spellcheck={false} rows={2} placeholder="{}" value={texts[key] ?? ""} onInput={(event) => onText(key, event.currentTarget.value)} />
        </label>
      ))}
    </details>
  );
}

function fieldOf({ type }: RequiredValue): DeclaredInput {
  return { type, required: true, default: null, enum: null, description: null, inferred: false };
}

/** Return the JSON object of a text, or null if it is none. */
export function readObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text || "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
