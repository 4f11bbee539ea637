/**
 * The graph of a run, from the coordinates of the service. There is no layout here, so nothing can jump: new data
 * change colours, words and rims. Only the first view and the key `f` fit the graph into its panel.
 */

import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import type { GraphEdge, GraphNode, RunDetails } from "../answers";
import { count } from "../format";
import { useKeys } from "../parts/keys";
import { StateSign, toneOf } from "../parts/state";
import { printable } from "../parts/value";

const MARGIN = 24;
const MIN_ZOOM = 0.1;
const MAX_ZOOM = 3;
const NAME_ZOOM = 0.35;
const TEXT_ZOOM = 0.7;
const RIM = 3;
const FRAME = 4;
const PADDING = 10;

interface View {
  x: number;
  y: number;
  zoom: number;
}

interface Props {
  graph: NonNullable<RunDetails["graph"]>;
  chosen: string | null;
  onChoose: (step: string) => void;
}

export function Graph({ graph, chosen, onChoose }: Props) {
  const panel = useRef<HTMLDivElement>(null);
  const [view, setView] = useState<View | null>(null);
  const drag = useRef<{ x: number; y: number; view: View } | null>(null);
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
      class={`graph ${level}`}
      ref={panel}
      onPointerDown={(event) => {
        if (event.button || !view || (event.target as Element).closest("button, .node")) return;
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
          <Edges edges={graph.edges} />
          <Nodes nodes={graph.nodes} chosen={chosen} onChoose={onChoose} />
        </g>
      </svg>
      <Legend />
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

const Edges = memo(
  ({ edges }: { edges: GraphEdge[] }) => (
    <g aria-hidden="true">
      {edges.map((edge, index) => (
        <Edge key={index} edge={edge} />
      ))}
    </g>
  ),
  (old, next) => old.edges === next.edges,
);

function Edge({ edge }: { edge: GraphEdge }) {
  const { points, marks, mark, taken } = edge;
  const [start, ...curve] = points;
  const tip = curve.pop();
  if (!start || !tip) return null;
  const base = curve[curve.length - 1] ?? start;
  const middle = points[Math.floor(points.length / 2)] ?? start;
  const label = edge.label_at ?? [middle[0] + 5, middle[1] + 3];
  const words = [edge.number ?? "", edge.label, taken > 1 ? `${count(taken)}×` : ""].filter(Boolean).join(" ");
  return (
    <g class={mark}>
      {marks ? (
        marks.map((place, index) => {
          const [from, to] = index ? [place, tip] : [start, place];
          return <path key={index} class={`edge ${mark}`} d={`M${from}L${to}`} />;
        })
      ) : (
        <path class={`edge ${mark}`} d={`M${start}C${curve.join(" ")}L${tip}`} />
      )}
      {edge.is_error && <path class="diamond" d={`M${start[0]} ${start[1]}l3.4 5-3.4 5-3.4-5Z`} />}
      <path class={`tip ${mark}`} d={arrow(marks?.[1] ?? base, tip)} />
      {words && (
        <text class="label" x={label[0]} y={label[1] + 4} text-anchor={edge.label_at ? "middle" : "start"}>
          {printable(words)}
        </text>
      )}
    </g>
  );
}

function arrow([x, y]: readonly [number, number], tip: readonly [number, number]): string {
  const [dx, dy] = [tip[0] - x, tip[1] - y];
  const length = Math.max(Math.hypot(dx, dy), 0.1);
  const [ux, uy] = [dx / length, dy / length];
  const [fx, fy] = [tip[0] - 7 * ux, tip[1] - 7 * uy];
  return `M${tip}L${fx - 3.2 * uy} ${fy + 3.2 * ux}L${fx + 3.2 * uy} ${fy - 3.2 * ux}Z`;
}

interface NodesProps {
  nodes: GraphNode[];
  chosen: string | null;
  onChoose: (step: string) => void;
}

/** All nodes have one tab stop. Arrow keys move between them. */
function Nodes({ nodes, chosen, onChoose }: NodesProps) {
  const steps = nodes.filter(({ kind }) => kind === "step" || kind === "group");
  const [focused, setFocused] = useState(0);
  const move = (event: KeyboardEvent) => {
    const node = steps[focused];
    const next = node && nearest(node, steps, event.key);
    if (next === undefined) return;
    event.preventDefault();
    setFocused(steps.indexOf(next));
    (event.currentTarget as Element).querySelector<SVGElement>(`[data-key="${next.key}"]`)?.focus();
  };
  return (
    <g role="group" aria-label="Steps" onKeyDown={move}>
      {nodes.map((node) => {
        const place = steps.indexOf(node);
        if (place < 0) return <Sign key={node.key} node={node} />;
        const isChosen = chosen !== null && node.steps.includes(chosen);
        return (
          <Step
            key={node.key}
            node={node}
            isChosen={isChosen}
            tabIndex={place === focused ? 0 : -1}
            onChoose={() => {
              setFocused(place);
              onChoose(node.steps[0] as string);
            }}
          />
        );
      })}
    </g>
  );
}

const DIRECTIONS: Record<string, readonly [number, number]> = {
  ArrowDown: [0, 1],
  ArrowUp: [0, -1],
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
};

/** Return the nearest node in the direction of an arrow key. */
function nearest(from: GraphNode, nodes: GraphNode[], key: string): GraphNode | undefined {
  const direction = DIRECTIONS[key];
  if (!direction) return undefined;
  const [dx, dy] = direction;
  const centre = (node: GraphNode) => [node.x + node.width / 2, node.y + node.height / 2] as const;
  const [x, y] = centre(from);
  let best: GraphNode | undefined;
  let distance = Infinity;
  for (const node of nodes) {
    const [nx, ny] = centre(node);
    const along = (nx - x) * dx + (ny - y) * dy;
    const aside = Math.abs((nx - x) * dy) + Math.abs((ny - y) * dx);
    if (node !== from && along > 1 && along + 2 * aside < distance) {
      best = node;
      distance = along + 2 * aside;
    }
  }
  return best;
}

interface StepProps {
  node: GraphNode;
  isChosen: boolean;
  tabIndex: number;
  onChoose: () => void;
}

function Step({ node, isChosen, tabIndex, onChoose }: StepProps) {
  const { x, y, width, height } = node;
  const state = node.state ?? "pending";
  const top = y + (node.join ? 9 : 0) + (node.is_loop ? FRAME : 0);
  const inner = y + height - top;
  const middle = top + inner / 2;
  const inset = node.calls_playbook ? FRAME : 0;
  const left = x + PADDING + inset;
  const lines = [...node.lines, node.words ?? ""].filter(Boolean);
  const box = { x, y: top, width, height: inner, rx: 6 };
  return (
    <g
      class={`node ${toneOf(state)} ${state}${isChosen ? " chosen" : ""}`}
      data-key={node.key}
      data-step={node.steps[0]}
      role="button"
      tabIndex={tabIndex}
      aria-pressed={isChosen}
      onClick={onChoose}
      onKeyDown={(event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        onChoose();
      }}
    >
      {node.is_finally && <text class="faint" x={x} y={y - 6}>finally, in every ending</text>}
      {node.join && <JoinSign node={node} />}
      {node.is_loop && <rect class="sheet" x={x + FRAME} y={top - FRAME} width={width - 2 * FRAME} height={inner} rx="6" />}
      {node.kind === "group" && <rect class="sheet" x={x + 3} y={top + 3} width={width} height={inner} rx="6" />}
      <rect class="box" {...box} />
      {node.calls_playbook && <rect class="box" x={x + FRAME} y={top + FRAME} width={width - 2 * FRAME} height={inner - 2 * FRAME} rx="3" />}
      {node.items && <Rim node={node} />}
      <rect class="focus" x={x - 3} y={top - 3} width={width + 6} height={inner + 6} rx="9" />
      <StateSign state={state} x={left} y={middle - 7} />
      <text class="name" x={left + 21} y={top + inset + 18}>
        {printable(node.title)}
      </text>
      {lines.map((line, index) => (
        <text class={index === lines.length - 1 ? "words" : "line"} x={left + 21} y={top + inset + 33 + 15 * index} key={index}>
          {printable(line)}
        </text>
      ))}
      {node.end && <EndSign kind={node.end} x={x + width - PADDING - inset - 14} y={middle - 7} />}
    </g>
  );
}

function Rim({ node }: { node: GraphNode }) {
  const { done, failed, total } = node.items as NonNullable<GraphNode["items"]>;
  const width = node.width - 2 * FRAME;
  const part = (items: number) => width * Math.min(items / Math.max(total, 1), 1);
  const x = node.x + FRAME;
  const y = node.y + node.height - RIM;
  return (
    <>
      <rect class="rim ok" x={x} y={y} width={part(done - failed)} height={RIM} />
      <rect class="rim bad" x={x + part(done - failed)} y={y} width={part(failed)} height={RIM} />
    </>
  );
}

function JoinSign({ node }: { node: GraphNode }) {
  const middle = node.x + node.width / 2;
  if (node.join === "all") return <rect class="bar" x={node.x} y={node.y} width={node.width} height="3" rx="1.5" />;
  if (node.join === "any") return <circle class="bar" cx={middle} cy={node.y + 3.5} r="3.5" />;
  return <path class="ticks" d={[-8, 0, 8].map((shift) => `M${middle + shift} ${node.y}v6`).join("")} />;
}

function EndSign({ kind, x, y }: { kind: string; x: number; y: number }) {
  const isFailure = kind === "failure";
  return (
    <svg class={`sign ${isFailure ? "bad" : "quiet"}`} x={x} y={y} width="14" height="14" viewBox="0 0 14 14" aria-hidden="true">
      <circle class="ring" cx="7" cy="7" r="6" />
      {isFailure ? <path class="line" d="M4.6 4.6L9.4 9.4M4.6 9.4L9.4 4.6" /> : <circle class="fill" cx="7" cy="7" r="2.6" />}
    </svg>
  );
}

/** What is no step: the start, ends, forks, work of cases, and the ends of arrows that jump to a step. */
function Sign({ node }: { node: GraphNode }) {
  const { x, y, width, height } = node;
  switch (node.kind) {
    case "start":
      return <circle class="bar" cx={x + width / 2} cy={y + height / 2} r="5" />;
    case "fork":
      return <rect class="bar" x={x} y={y} width={width} height="3" rx="1.5" />;
    case "end":
    case "failure":
      return <EndSign kind={node.kind} x={x + width / 2 - 7} y={y + height / 2 - 7} />;
    case "work":
      return (
        <g class="work">
          <rect class="box" x={x} y={y} width={width} height={height} rx="6" />
          <text class="line" x={x + PADDING} y={y + 17}>{printable(node.lines[0] ?? "")}</text>
        </g>
      );
    default:
      return <text class="line" x={x + 2} y={y + 12}>{printable(node.lines[0] ?? "")}</text>;
  }
}
