/**
 * The nodes of a drawing: steps with their signs, and the marks between them.
 *
 * Many steps may have new states at once. So Preact draws the shapes, which seldom change, and the states are written to
 * the elements directly: a class for each step that has another state, and the two paths of its sign.
 */

import type { RefObject } from "preact";
import { memo } from "preact/compat";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import type { DrawnGraph, GraphNode } from "../answers";
import { partsOf, StateSign, toneOf } from "../parts/state";
import { printable } from "../parts/value";
import { isSame } from "../same";
import { isStep, neighbourOf, targetOfJump } from "./neighbours";
import type { NodeMark } from "./panel";

const RIM = 3;
const FRAME = 4;
const PADDING = 10;
const SIGN_WIDTH = 21;
/** How many steps may change their colours gradually. Each frame of a transition paints the drawing again. */
const MAX_TRANSITIONS = 20;

interface NodesProps {
  graph: DrawnGraph;
  marks?: ReadonlyMap<string, NodeMark> | undefined;
  chosen: string | null;
  /** Must not change. */
  onChoose: (node: GraphNode) => void;
}

/**
 * All nodes have one tab stop. Arrow keys move between them. Nothing is drawn again unless the graph has changed.
 * In SVG the attribute is `tabindex`: names of attributes are case-sensitive there.
 */
export const Nodes = memo(
  DrawnNodes,
  (old, next) => old.graph === next.graph && old.chosen === next.chosen && old.marks === next.marks,
);

function DrawnNodes({ graph, chosen, onChoose, marks }: NodesProps) {
  const { nodes } = graph;
  const group = useRef<SVGGElement>(null);
  const isGradual = useGradual(nodes);
  const [focused, setFocused] = useState("");
  const stop = nodes.some(({ key }) => key === focused) ? focused : nodes.find(isStep)?.key;
  const shapes = useShapes(nodes);
  const drawn = useMemo(
    () =>
      shapes.map((node) =>
        isStep(node) ? (
          <Step key={node.key} node={node} isChosen={isChosen(node, chosen)} mark={markOf(node, marks)} tabIndex={node.key === stop ? 0 : -1} />
        ) : (
          <Sign key={node.key} node={node} to={targetOfJump(graph, node)?.key} />
        ),
      ),
    [shapes, chosen, marks, stop],
  );
  useStates(group, nodes, chosen, marks);
  const move = (event: KeyboardEvent) => {
    const here = keyOf(event.target as Element) ?? stop;
    const node = nodes.find(({ key }) => key === here);
    const next = node && neighbourOf(graph, node, event.key);
    if (next === undefined) return;
    event.preventDefault();
    setFocused(next.key);
    (event.currentTarget as Element).querySelector<SVGElement>(`[data-key="${next.key}"]`)?.focus();
  };
  const choose = (event: Event) => {
    const key = (event.target as SVGElement).dataset["to"] ?? keyOf(event.target as Element);
    const node = nodes.find((one) => isStep(one) && one.key === key);
    if (node) onChoose(node);
    return node;
  };
  const press = (event: KeyboardEvent) => {
    if (event.key !== "Enter" && event.key !== " ") return move(event);
    if (choose(event)) event.preventDefault();
  };
  return (
    <g
      ref={group}
      class={isGradual ? "gradual" : "immediate"}
      role="group"
      aria-label="Steps"
      onClick={choose}
      onKeyDown={press}
      onPointerDown={(event) => setFocused(keyOf(event.target as Element) ?? "")}
    >
      {drawn}
    </g>
  );
}

function isChosen({ steps }: GraphNode, chosen: string | null): boolean {
  return chosen !== null && steps.includes(chosen);
}

function markOf({ steps }: GraphNode, marks: NodesProps["marks"]): NodeMark | undefined {
  return marks && steps.map((step) => marks.get(step)).find(Boolean);
}

/** Return the nodes as they were when anything but a state has changed, so that Preact draws nothing for other states. */
function useShapes(nodes: readonly GraphNode[]): readonly GraphNode[] {
  const last = useRef(nodes);
  const old = last.current;
  const isKept = old.length === nodes.length && nodes.every((node, index) => hasSameShape(old[index] as GraphNode, node));
  if (!isKept) last.current = nodes;
  return last.current;
}

function hasSameShape(old: GraphNode, next: GraphNode): boolean {
  return old === next || ((old.state === null) === (next.state === null) && isSame(old, next, ["state"]));
}

/** The class of the parts of a sign before they are drawn. */
const UNDRAWN = "undrawn";

interface DrawnState {
  classes: string;
  paths: readonly Element[];
  parts: ReturnType<typeof partsOf>;
}

/** Write the states of steps to their elements. Each node is one element of the group, in the order of the nodes. */
function useStates(group: RefObject<SVGGElement | null>, nodes: readonly GraphNode[], chosen: string | null, marks: NodesProps["marks"]): void {
  const known = useRef(new WeakMap<Element, DrawnState>());
  useLayoutEffect(() => {
    let element = group.current?.firstElementChild ?? null;
    for (const node of nodes) {
      if (element === null) return;
      if (isStep(node)) {
        const tone = markOf(node, marks)?.state ?? node.state;
        const classes = `node ${tone ? `to-${toneOf(tone)} ${tone}` : "plain"}${isChosen(node, chosen) ? " chosen" : ""}`;
        let drawn = known.current.get(element);
        if (!drawn) known.current.set(element, (drawn = { classes: "", paths: [...element.querySelectorAll(`:scope > .${UNDRAWN}`)], parts: [] }));
        if (drawn.classes !== classes) element.setAttribute("class", (drawn.classes = classes));
        const parts = node.state ? partsOf(node.state) : [];
        if (drawn.parts !== parts) drawSign(drawn, parts);
      }
      element = element.nextElementSibling;
    }
  }, [nodes, chosen, marks]);
}

function drawSign(drawn: DrawnState, parts: DrawnState["parts"]): void {
  drawn.paths.forEach((path, index) => {
    const [oldKind, oldPath] = drawn.parts[index] ?? ["", ""];
    const [kind, place] = parts[index] ?? ["", ""];
    if (kind !== oldKind) path.setAttribute("class", `sign-${kind}`);
    if (place !== oldPath) path.setAttribute("d", place);
  });
  drawn.parts = parts;
}

/** Return whether so few states have changed that their colours may change gradually. */
function useGradual(nodes: readonly GraphNode[]): boolean {
  const last = useRef(nodes);
  return useMemo(() => {
    const before = last.current;
    last.current = nodes;
    return nodes.filter(({ state }, index) => state !== before[index]?.state).length <= MAX_TRANSITIONS;
  }, [nodes]);
}

function keyOf(element: Element): string | undefined {
  return element.closest<SVGElement>("[data-key]")?.dataset["key"];
}

interface StepProps {
  mark?: NodeMark | undefined;
  node: GraphNode;
  isChosen: boolean;
  tabIndex: number;
}

const Step = memo(
  DrawnStep,
  (old, next) =>
    hasSameShape(old.node, next.node) && old.mark === next.mark && old.isChosen === next.isChosen && old.tabIndex === next.tabIndex,
);

/** The shape and the words of a step. `useStates` draws its state: its class and the two parts of its sign. */
function DrawnStep({ node, mark, isChosen, tabIndex }: StepProps) {
  const { x, width, state, words } = node;
  const { top, middle, inset, left, text } = placesOf(node);
  const place = `translate(${left} ${middle - 7})`;
  return (
    <g data-key={node.key} data-step={node.steps[0]} role="button" tabindex={tabIndex} aria-pressed={isChosen}>
      <Frame node={node} />
      {node.items && <Rim node={node} />}
      {state !== null && (
        <>
          <path class={UNDRAWN} transform={place} />
          <path class={UNDRAWN} transform={place} />
        </>
      )}
      {words && (
        <text class="words" x={text} y={top + inset + 33 + 15 * node.lines.length}>
          {printable(words)}
        </text>
      )}
      {mark && (
        <g>
          <title>{printable(mark.words)}</title>
          <circle class="badge" cx={x + width - 2} cy={top + 2} r="9" />
          <StateSign state={mark.state} x={x + width - 9} y={top - 5} />
        </g>
      )}
    </g>
  );
}

function placesOf(node: GraphNode) {
  const top = node.y + (node.join ? 9 : 0) + (node.is_loop ? FRAME : 0);
  const inner = node.y + node.height - top;
  const inset = node.calls_playbook ? FRAME : 0;
  const left = node.x + PADDING + inset;
  return { top, inner, middle: top + inner / 2, inset, left, text: node.state ? left + SIGN_WIDTH : left };
}

/** What a step shows in each state. */
const Frame = memo(DrawnFrame, ({ node: old }, { node: next }) => (old.state === null) === (next.state === null) && isSame(old, next, ["state", "words", "items"]));

function DrawnFrame({ node }: { node: GraphNode }) {
  const { x, y, width } = node;
  const { top, inner, middle, inset, text } = placesOf(node);
  return (
    <>
      {node.is_finally && <text class="faint" x={x} y={y - 6}>finally, in every ending</text>}
      {node.join && <JoinSign node={node} />}
      {node.is_loop && <rect class="sheet" x={x + FRAME} y={top - FRAME} width={width - 2 * FRAME} height={inner} rx="6" />}
      {node.kind === "group" && <rect class="sheet" x={x + 3} y={top + 3} width={width} height={inner} rx="6" />}
      <rect class="box" x={x} y={top} width={width} height={inner} rx="6" />
      {node.calls_playbook && <rect class="box" x={x + FRAME} y={top + FRAME} width={width - 2 * FRAME} height={inner - 2 * FRAME} rx="3" />}
      <rect class="focus" x={x - 3} y={top - 3} width={width + 6} height={inner + 6} rx="9" />
      <text class="name" x={text} y={top + inset + 18}>
        {printable(node.title)}
      </text>
      {node.lines.map((line, index) => (
        <text class="line" x={text} y={top + inset + 33 + 15 * index} key={index}>
          {printable(line)}
        </text>
      ))}
      {node.end && <EndSign kind={node.end} x={x + width - PADDING - inset - 14} y={middle - 7} />}
    </>
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
function Sign({ node, to }: { node: GraphNode; to?: string | undefined }) {
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
      return <text class="line jump" data-to={to} x={x + 2} y={y + 12}>{printable(node.lines[0] ?? "")}</text>;
  }
}
