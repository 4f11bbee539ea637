/** The list of findings below the text. */

import { plural } from "../format";
import { StateSign } from "../parts/state";
import { printable } from "../parts/value";
import type { Finding } from "./answers";
import type { Mark } from "./marks";

export const STATES: Record<Finding["severity"], string> = { error: "failed", warning: "completed_with_errors", note: "queued" };

interface Props {
  marks: readonly Mark[];
  onOpen: (mark: Mark) => void;
  onNext: () => void;
}

export function Findings({ marks, onOpen, onNext }: Props) {
  const number = (severity: Finding["severity"]) => marks.filter(({ finding }) => finding.severity === severity).length;
  const errors = number("error");
  return (
    <section class="found" aria-label="Findings">
      <header>
        <h2>Findings</h2>
        <span class={errors ? "bad" : ""}>{plural(errors, "error")}</span>
        <span>{plural(number("warning"), "warning")}</span>
        <span>{plural(number("note"), "note")}</span>
        <button type="button" disabled={!marks.length} onClick={onNext}>
          <kbd>F8</kbd> next
        </button>
      </header>
      <ul tabIndex={0} aria-label="List of findings">
        {marks.map((mark, index) => (
          <li key={index}>
            <button type="button" onClick={() => onOpen(mark)}>
              <StateSign state={STATES[mark.finding.severity]} />
              <span>
                <bdi>{printable(mark.finding.message)}</bdi>
              </span>
              <code>{mark.finding.code}</code>
              <small>
                line {mark.finding.line}, column {mark.finding.column}
              </small>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
