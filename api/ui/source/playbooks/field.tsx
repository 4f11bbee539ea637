/**
 * A field of the start form: its name and type, an editor for the type, and below it what it means or what is wrong.
 * Both have the same place, with room for some lines, so that an error moves nothing.
 */

import { printable } from "../parts/value";
import type { DeclaredInput } from "./answers";
import { choicesOf, editorOf, textOf, typeWords } from "./inputs";

const MAX_SHOWN = 100;
const EXAMPLES: Record<string, string> = { object: 'JSON, such as {"a": 1}.', array: "JSON, such as [1, 2]." };

interface Props {
  id: string;
  name: string;
  field: DeclaredInput;
  text: string;
  error: string | undefined;
  onText: (text: string) => void;
}

interface EditorProps extends Props {
  describedBy: string;
}

export function InputField(props: Props) {
  const { id, name, field, error } = props;
  const describedBy = `${id}-${error ? "error" : "help"}`;
  return (
    <div class="field">
      <label for={id}>
        <bdi>{printable(name)}</bdi> <small>{typeWords(field)}</small>
      </label>
      <Editor {...props} describedBy={describedBy} />
      <p class="words" id={describedBy}>
        {error ? (
          <span class="bad">
            <bdi>{printable(error)}</bdi>
          </span>
        ) : (
          help(field)
        )}
      </p>
    </div>
  );
}

function Editor({ id, field, text, error, onText, describedBy }: EditorProps) {
  const shared = { id, "aria-describedby": describedBy, "aria-invalid": error ? true : undefined, "aria-required": field.required } as const;
  const editor = editorOf(field);
  if (editor === "choice") {
    return (
      <select {...shared} value={text} onChange={(event) => onText(event.currentTarget.value)}>
        <option value="">{field.required ? "Choose" : `${words(field.default)}, the default`}</option>
        {choicesOf(field).map((choice) => (
          <option key={JSON.stringify(choice)} value={textOf(field, choice)}>
            {words(choice)}
          </option>
        ))}
      </select>
    );
  }
  const typing = { ...shared, spellcheck: false, autoComplete: "off", value: text } as const;
  const isLong = editor === "json" || text.includes("\n") || text.length > MAX_SHOWN;
  if (isLong) {
    const rows = Math.min(Math.max(text.split("\n").length + 1, 3), 16);
    return <textarea {...typing} class={editor} rows={rows} onInput={(event) => onText(event.currentTarget.value)} />;
  }
  return (
    <input {...typing} inputMode={editor === "number" ? "decimal" : undefined} onInput={(event) => onText(event.currentTarget.value)} />
  );
}

/** Return a choice in words. */
function words(choice: unknown): string {
  if (typeof choice === "boolean") return choice ? "Yes" : "No";
  return printable(typeof choice === "string" ? choice : JSON.stringify(choice));
}

/** Return the words below a field: what it means, and what an empty one means. */
function help(field: DeclaredInput): string {
  const editor = editorOf(field);
  const sentences = [field.description?.trim().replace(/([^.!?])$/, "$1.") ?? ""];
  if (editor === "json") sentences.push(EXAMPLES[field.type] ?? "JSON; a text stands in quotes.");
  if (!field.required && !field.inferred && editor !== "choice") {
    sentences.push(`If empty: ${shorten(JSON.stringify(field.default))}.`);
  }
  return printable(sentences.filter(Boolean).join(" "));
}

function shorten(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
}
