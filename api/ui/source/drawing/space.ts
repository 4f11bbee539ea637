/**
 * Space for a drawing below a step of another one. What lies below moves down, and what lies to the right moves
 * to the right. Nothing changes its order, so no line crosses another that it did not cross before.
 */

import type { DrawnGraph, GraphEdge, GraphNode } from "../answers";

const MARGIN = 16;

export interface Space {
  /** The drawing with the space. */
  graph: DrawnGraph;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Return a drawing with space below a step, or null if the step is folded. `known` keeps nodes that are the same. */
export function makeSpace(graph: DrawnGraph, step: string, inner: { width: number; height: number }, known: Map<string, GraphNode>): Space | null {
  const box = graph.nodes.find(({ kind, steps }) => kind === "step" && steps[0] === step);
  if (!box) return null;
  const { x, y, width, height } = box;
  const dx = Math.max(inner.width + 2 * MARGIN - width, 0);
  const dy = inner.height + 2 * MARGIN;
  const along = (place: number) => dx * Math.min(Math.max((place - x) / width, 0), 1);
  const down = (place: number) => dy * Math.min(Math.max((place - y) / height, 0), 1);
  const shifts = new Map<string, readonly [number, number]>();
  const nodes = graph.nodes.map((node) => {
    const shift = [along(node.x + node.width / 2), node !== box && node.y >= y + height - 1 ? dy : 0] as const;
    shifts.set(node.key, shift);
    return keep(known, { ...node, x: node.x + shift[0], y: node.y + shift[1] });
  });
  const edges = graph.edges.map((edge): GraphEdge => {
    const source = edge.source === box.key ? [dx / 2, dy] : shifts.get(edge.source);
    const target = shifts.get(edge.target);
    const last = edge.points.length - 3;
    const move = ([px, py]: [number, number], shift?: readonly number[]): [number, number] => [
      px + (shift?.[0] ?? along(px)),
      py + (shift?.[1] ?? down(py)),
    ];
    return {
      ...edge,
      points: edge.points.map((point, index) => move(point, index < 2 ? source : index >= last ? target : undefined)),
      label_at: edge.label_at && move(edge.label_at),
      marks: edge.marks && edge.marks.map((mark) => move(mark)),
    };
  });
  return { graph: { width: graph.width + dx, height: graph.height + dy, nodes, edges }, x, y: y + height, width: width + dx, height: dy };
}

/** Return the node of before if it is the same, so that it is not drawn again. */
function keep(known: Map<string, GraphNode>, node: GraphNode): GraphNode {
  const old = known.get(node.key);
  if (old && JSON.stringify(old) === JSON.stringify(node)) return old;
  known.set(node.key, node);
  return node;
}
