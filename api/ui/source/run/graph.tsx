/** The graph of a run: its drawing with the states of its steps, what the lines mean, and the groups that are open. */

import { useMemo, useRef } from "preact/hooks";

import type { DrawnGraph, GraphNode, RunDetails } from "../answers";
import { Drawing } from "../drawing/panel";
import { printable } from "../parts/value";
import { stateOf } from "./rows";

interface Props {
  graph: DrawnGraph;
  run: RunDetails;
  chosen: string | null;
  /** Steps whose groups a person has opened. */
  opened: readonly string[];
  onChoose: (step: string) => void;
  onOpen: (steps: readonly string[]) => void;
}

export function Graph({ graph, run, chosen, opened, onChoose, onOpen }: Props) {
  const shown = useWaits(graph, run);
  return (
    <Drawing graph={shown} chosen={chosen} onChoose={onChoose} onOpen={(step) => onOpen([...opened, step])}>
      <Legend />
      {opened.length > 0 && (
        <ul class="groups" aria-label="Open groups">
          {opened.map((step) => (
            <li key={step}>
              <button type="button" onClick={() => onOpen(opened.filter((other) => other !== step))}>
                Fold <bdi>{printable(step)}</bdi>
              </button>
            </li>
          ))}
        </ul>
      )}
    </Drawing>
  );
}

/** Return the graph with the signs of steps that wait for a person or at a join. Unchanged nodes stay the same objects. */
function useWaits(graph: DrawnGraph, run: RunDetails): DrawnGraph {
  const known = useRef(new Map<GraphNode, GraphNode>());
  return useMemo(() => {
    const next = new Map<GraphNode, GraphNode>();
    const nodes = graph.nodes.map((node) => {
      const step = node.kind === "step" ? node.steps[0] : undefined;
      const state = step === undefined ? "" : stateOf(run.steps[step], true);
      if (state !== "asks" && state !== "join") return node;
      const old = known.current.get(node);
      const shown = old?.state === state ? old : { ...node, state };
      next.set(node, shown);
      return shown;
    });
    known.current = next;
    return next.size ? { ...graph, nodes } : graph;
  }, [graph, run.steps]);
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
