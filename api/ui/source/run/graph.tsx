/** The graph of a run: its drawing with the states of its steps, what the lines mean, and the groups that are open. */

import { useMemo, useRef, useState } from "preact/hooks";

import { linkTo } from "../address";
import type { DrawnGraph, GraphNode, RunDetails } from "../answers";
import { Drawing } from "../drawing/panel";
import { printable } from "../parts/value";
import { stateOf } from "./rows";
import { FollowedRun, openSubRun, useInner, useOpener, type Followed, type SubRun } from "./subrun";

const NOTHING: DrawnGraph = { width: 0, height: 0, nodes: [], edges: [] };

interface Props {
  graph: DrawnGraph;
  run: RunDetails;
  chosen: string | null;
  /** Steps whose groups a person has opened. */
  opened: readonly string[];
  /** The same list as JSON, as the graph was drawn with it. */
  drawn: string;
  /** The sub-run that is drawn inside. */
  sub: SubRun | null;
  onChoose: (step: string) => void;
  onOpen: (steps: readonly string[]) => void;
}

export function Graph({ graph, run, chosen, opened, drawn, sub, onChoose, onOpen }: Props) {
  const shown = useWaits(graph, run);
  const [followed, setFollowed] = useState<Followed | null>(null);
  const child = useWaits(followed?.run?.graph ?? NOTHING, followed?.run ?? run);
  const { inner, words } = useInner(shown, sub, followed, child);
  const open = useOpener(run, sub, onChoose);
  const isKeptFolded = drawn === JSON.stringify(opened) && graph.nodes.some(({ kind, steps }) => kind === "group" && opened.some((step) => steps.includes(step)));
  return (
    <Drawing graph={shown} chosen={chosen} onChoose={onChoose} onOpen={(step) => onOpen([...opened, step])} inner={inner} onInner={(step) => void open(step)}>
      <Legend />
      {sub && <FollowedRun key={sub.id} id={sub.id} onChange={setFollowed} />}
      {(opened.length > 0 || sub) && (
        <ul class="groups" aria-label="Open groups">
          {opened.map((step) => (
            <li key={step}>
              <button type="button" onClick={() => onOpen(opened.filter((other) => other !== step))}>
                Fold <bdi>{printable(step)}</bdi>
              </button>
            </li>
          ))}
          {isKeptFolded && <li class="note" role="status">Some steps stay folded: to draw them takes too long.</li>}
          {sub && (
            <li>
              <a class="button" href={linkTo(["runs", sub.id])}>
                Open the sub-run
              </a>{" "}
              <button type="button" onClick={() => openSubRun(null)}>
                Fold <bdi>{words}</bdi>
              </button>
            </li>
          )}
        </ul>
      )}
    </Drawing>
  );
}

/** Return the graph with the signs of steps that wait for a person or at a join, or were left out. Unchanged nodes stay the same objects. */
function useWaits(graph: DrawnGraph, run: RunDetails): DrawnGraph {
  const known = useRef(new Map<GraphNode, GraphNode>());
  return useMemo(() => {
    const next = new Map<GraphNode, GraphNode>();
    const nodes = graph.nodes.map((node) => {
      const step = node.kind === "step" ? node.steps[0] : undefined;
      const state = step === undefined ? "" : stateOf(run.steps[step], true);
      if (state !== "asks" && state !== "join" && state !== "skipped") return node;
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
