/**
 * A drawing in its panel, from the coordinates of the service. There is no layout here, so nothing can jump: new
 * data change colours, words and rims. Only the first view and the key `f` fit the drawing into its panel.
 */

import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import type { DrawnGraph, GraphNode } from "../answers";
import { useKeys } from "../parts/keys";
import { Edges } from "./edges";
import { Minimap, MINIMAP_FROM } from "./minimap";
import { isStep } from "./neighbours";
import { Nodes } from "./nodes";
import type { Space } from "./space";

const MARGIN = 24;
const MIN_ZOOM = 0.1;
const MAX_ZOOM = 3;
const NAME_ZOOM = 0.35;
const TEXT_ZOOM = 0.7;

interface View {
  x: number;
  y: number;
  zoom: number;
}

/** Another drawing in a space of the drawing. */
export interface Inner {
  graph: DrawnGraph;
  space: Space & { scale: number };
  label: string;
  /** Must not change. */
  onChoose: (node: GraphNode) => void;
}

/** A sign on the corner of a step, and what it means. */
export interface NodeMark {
  state: string;
  words: string;
}

interface Props {
  graph: DrawnGraph;
  /** The step with a frame. */
  chosen: string | null;
  onChoose: (step: string) => void;
  /** Open a folded group with this step. Without it, its first step is chosen. */
  onOpen?: (step: string) => void;
  inner?: Inner | null;
  /** Open or close the inner drawing of a step that calls a playbook. */
  onInner?: (step: string) => void;
  /** Whether the drawing shows an earlier state, and is dimmed. */
  isOld?: boolean;
  /** Signs on steps, such as those with findings. */
  marks?: ReadonlyMap<string, NodeMark>;
  /** What lies over the drawing, such as a legend. */
  children?: ComponentChildren;
}

export function Drawing({ graph: outer, chosen, onChoose, onOpen, inner = null, onInner, isOld = false, marks, children }: Props) {
  const graph = inner?.space.graph ?? outer;
  const panel = useRef<HTMLDivElement>(null);
  const [view, setView] = useState<View | null>(null);
  const drag = useRef<{ x: number; y: number; view: View } | null>(null);
  const latest = useRef({ onChoose, onOpen });
  latest.current = { onChoose, onOpen };
  const choose = useCallback((node: GraphNode) => {
    const step = node.steps[0] as string;
    if (node.kind !== "group" || !latest.current.onOpen) return latest.current.onChoose(step);
    anchor.current = step;
    latest.current.onOpen(step);
  }, []);
  const anchor = useRef<string | null>(null);
  const shown = useRef(graph);
  useLayoutEffect(() => {
    const old = shown.current;
    shown.current = graph;
    if (old === graph || (old.width === graph.width && old.height === graph.height)) return;
    setView((now) => now && keepPlace(old, graph, now, anchor.current, panel.current as HTMLDivElement));
    anchor.current = null;
  }, [graph]);
  const fit = () => {
    const { clientWidth, clientHeight } = panel.current as HTMLDivElement;
    const zoom = Math.min(1, (clientWidth - 2 * MARGIN) / graph.width, (clientHeight - 2 * MARGIN) / graph.height);
    const shown = Math.max(zoom, MIN_ZOOM);
    setView({ zoom: shown, x: (clientWidth - graph.width * shown) / 2, y: Math.max((clientHeight - graph.height * shown) / 2, MARGIN) });
  };
  useLayoutEffect(() => {
    if (!view) fit();
  }, []);
  const zoomBy = (factor: number, place?: { x: number; y: number }) => {
    setView((old) => {
      if (!old) return old;
      const element = panel.current as HTMLDivElement;
      const { x, y } = place ?? { x: element.clientWidth / 2, y: element.clientHeight / 2 };
      const zoom = Math.min(Math.max(old.zoom * factor, MIN_ZOOM), MAX_ZOOM);
      const scale = zoom / old.zoom;
      return { zoom, x: x - (x - old.x) * scale, y: y - (y - old.y) * scale };
    });
  };
  useEffect(() => {
    const element = panel.current as HTMLDivElement;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      const box = element.getBoundingClientRect();
      if (event.ctrlKey || event.metaKey) {
        zoomBy(Math.exp(-event.deltaY / 300), { x: event.clientX - box.left, y: event.clientY - box.top });
      } else {
        setView((old) => old && { ...old, x: old.x - event.deltaX, y: old.y - event.deltaY });
      }
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, []);
  useKeys({ f: fit, "+": () => zoomBy(1.25), "-": () => zoomBy(0.8) });
  const level = !view || view.zoom >= TEXT_ZOOM ? "full" : view.zoom >= NAME_ZOOM ? "names" : "signs";
  return (
    <div
      class={`graph ${level}${isOld ? " old" : ""}`}
      ref={panel}
      onPointerDown={(event) => {
        if (event.button || !view || (event.target as Element).closest("button, .node, .opener, .minimap, .jump")) return;
        event.currentTarget.setPointerCapture(event.pointerId);
        drag.current = { x: event.clientX, y: event.clientY, view };
      }}
      onPointerMove={(event) => {
        const start = drag.current;
        if (start) setView({ ...start.view, x: start.view.x + event.clientX - start.x, y: start.view.y + event.clientY - start.y });
      }}
      onPointerUp={() => (drag.current = null)}
      onPointerCancel={() => (drag.current = null)}
    >
      <svg width="100%" height="100%">
        <g transform={view ? `translate(${view.x} ${view.y}) scale(${view.zoom})` : undefined}>
          {inner && <rect class="inner" x={inner.space.x} y={inner.space.y} width={inner.space.width} height={inner.space.height} rx="6" />}
          <Edges edges={graph.edges} />
          <Nodes graph={graph} chosen={chosen} onChoose={choose} marks={marks} />
          {onInner && graph.nodes.filter(canOpen).map((node) => (
            <Opener
              key={node.key}
              node={node}
              onOpen={(step) => {
                anchor.current = step;
                onInner(step);
              }}
            />
          ))}
          {inner && <InnerDrawing {...inner} />}
        </g>
      </svg>
      {children}
      {view && graph.nodes.filter(isStep).length >= MINIMAP_FROM && (
        <Minimap
          graph={graph}
          view={view}
          panel={{ width: panel.current?.clientWidth ?? 0, height: panel.current?.clientHeight ?? 0 }}
          onMove={(x, y) => {
            const { clientWidth, clientHeight } = panel.current as HTMLDivElement;
            setView({ zoom: view.zoom, x: clientWidth / 2 - x * view.zoom, y: clientHeight / 2 - y * view.zoom });
          }}
        />
      )}
      <div class="zoom">
        <button type="button" aria-label="Zoom out" onClick={() => zoomBy(0.8)}>
          −
        </button>
        <span>{Math.round((view?.zoom ?? 1) * 100)} %</span>
        <button type="button" aria-label="Zoom in" onClick={() => zoomBy(1.25)}>
          +
        </button>
        <button type="button" aria-label="Show all" title="Show all (f)" onClick={fit}>
          ⤢
        </button>
      </div>
    </div>
  );
}

function canOpen({ kind, calls_playbook, state }: GraphNode): boolean {
  return kind === "step" && calls_playbook && !["may", "never", "pending", "queued", null].includes(state);
}

/** The sign that opens what a step has started. The drawer has a button for it, which keys can reach. */
function Opener({ node, onOpen }: { node: GraphNode; onOpen: (step: string) => void }) {
  const [x, y] = [node.x + node.width - 2, node.y + node.height - 2];
  return (
    <g class="opener" aria-hidden="true" data-opener={node.steps[0]} onClick={() => onOpen(node.steps[0] as string)}>
      <title>Show the sub-run here</title>
      <rect x={x - 12} y={y - 12} width="24" height="24" />
      <circle cx={x} cy={y} r="8" />
      <path d={`M${x - 3.5} ${y - 2}l3.5 4 3.5-4`} />
    </g>
  );
}

function InnerDrawing({ graph, space, label, onChoose }: Inner) {
  const x = space.x + (space.width - graph.width * space.scale) / 2;
  const y = space.y + (space.height - graph.height * space.scale) / 2;
  return (
    <g role="group" aria-label={label} transform={`translate(${x} ${y}) scale(${space.scale})`}>
      <Edges edges={graph.edges} />
      <Nodes graph={graph} chosen={null} onChoose={onChoose} />
    </g>
  );
}

/** Return the view in which a node keeps its place on the screen: that with `step`, else the one next to the middle. */
function keepPlace(old: DrawnGraph, graph: DrawnGraph, view: View, step: string | null, { clientWidth, clientHeight }: HTMLElement): View {
  const place = (node: GraphNode) => [view.x + (node.x + node.width / 2) * view.zoom, view.y + node.y * view.zoom] as const;
  const distance = (node: GraphNode) => {
    const [x, y] = place(node);
    return Math.hypot(x - clientWidth / 2, y - clientHeight / 2);
  };
  const targetOf = (node: GraphNode) => graph.nodes.find(({ steps }) => steps.includes(step ?? node.steps[0] ?? ""));
  const candidates = old.nodes.filter((node) => isStep(node) && (step === null || node.steps.includes(step)));
  const before = candidates.sort((a, b) => distance(a) - distance(b)).find(targetOf);
  const after = before && targetOf(before);
  if (!after) return view;
  const [x, y] = place(before);
  return { zoom: view.zoom, x: x - (after.x + after.width / 2) * view.zoom, y: y - after.y * view.zoom };
}
