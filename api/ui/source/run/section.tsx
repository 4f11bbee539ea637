/** A section of the drawer, and lines of the playbook. */

import type { ComponentChildren } from "preact";

import { printable } from "../parts/value";

interface Props {
  /** The name in the address, such as `input` in `#input`. */
  name: string;
  title: string;
  note?: ComponentChildren;
  children: ComponentChildren;
}

export function Section({ name, title, note, children }: Props) {
  return (
    <section id={`section-${name}`} data-title={title}>
      <h3>
        {title} {note && <small>{note}</small>}
      </h3>
      {children}
    </section>
  );
}

interface LinesProps {
  source: string;
  line: number;
  before?: number;
  after: number;
}

/** Lines of the playbook around one, which is marked if lines before it are shown, too. */
export function Lines({ source, line, before = 0, after }: LinesProps) {
  const lines = source.split("\n");
  const first = Math.max(line - 1 - before, 0);
  return (
    <ol class="source">
      {lines.slice(first, line + after).map((text, index) => (
        <li key={index} class={first + index + 1 === line && before ? "marked" : ""} value={first + index + 1}>
          <bdi>{printable(text) || " "}</bdi>
        </li>
      ))}
    </ol>
  );
}
