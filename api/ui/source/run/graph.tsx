/** The graph of a run: its drawing with the states of its steps, and what the lines mean. */

import type { DrawnGraph } from "../answers";
import { Drawing } from "../drawing/panel";

interface Props {
  graph: DrawnGraph;
  chosen: string | null;
  onChoose: (step: string) => void;
}

export function Graph(props: Props) {
  return (
    <Drawing {...props}>
      <Legend />
    </Drawing>
  );
}

function Legend() {
  return (
    <ul class="legend" aria-hidden="true">
      {(["taken", "may", "never"] as const).map((mark) => (
        <li key={mark}>
          <svg width="24" height="4">
            <path class={`edge ${mark}`} d="M0 2H24" />
          </svg>
          {{ taken: "taken", may: "may be taken", never: "will not be" }[mark]}
        </li>
      ))}
    </ul>
  );
}
