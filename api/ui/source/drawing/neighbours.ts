/** Where arrow keys lead in a drawing: down and up along its edges, and to the side to the nearest node. */

import type { DrawnGraph, GraphNode } from "../answers";

const DIRECTIONS: Record<string, readonly [number, number]> = {
  ArrowDown: [0, 1],
  ArrowUp: [0, -1],
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
};

export function isStep({ kind }: GraphNode): boolean {
  return kind === "step" || kind === "group";
}

/** Return the node to which an arrow key leads, or undefined. */
export function neighbourOf(graph: DrawnGraph, from: GraphNode, key: string): GraphNode | undefined {
  const direction = DIRECTIONS[key];
  if (!direction) return undefined;
  const linked = key === "ArrowDown" ? followEdges(graph, from, true) : key === "ArrowUp" ? followEdges(graph, from, false) : [];
  return nearest(from, linked, direction) ?? linked[0] ?? nearest(from, graph.nodes.filter(isStep), direction);
}

/** Return the node of the step at whose name an arrow ends, or undefined for an arrow to a node. */
export function targetOfJump({ nodes, edges }: DrawnGraph, { key, kind }: GraphNode): GraphNode | undefined {
  const step = kind === "jump" ? edges.find(({ target }) => target === key)?.routes[0]?.target : undefined;
  return step === undefined ? undefined : nodes.find(({ steps }) => steps.includes(step));
}

/** Return the steps to which edges lead, also through marks that are no steps, such as forks. */
function followEdges(graph: DrawnGraph, from: GraphNode, isForward: boolean): GraphNode[] {
  const { nodes, edges } = graph;
  const byKey = new Map(nodes.map((node) => [node.key, node]));
  const seen = new Set([from.key]);
  const found: GraphNode[] = [];
  const queue = [from.key];
  for (const key of queue) {
    for (const edge of edges) {
      const [here, there] = isForward ? [edge.source, edge.target] : [edge.target, edge.source];
      if (here !== key || seen.has(there)) continue;
      seen.add(there);
      const node = byKey.get(there);
      const jumped = node && targetOfJump(graph, node);
      if (jumped) found.push(jumped);
      else if (node && isStep(node)) found.push(node);
      else queue.push(there);
    }
  }
  return found;
}

/** Return the nearest of some nodes in a direction. */
function nearest(from: GraphNode, nodes: readonly GraphNode[], [dx, dy]: readonly [number, number]): GraphNode | undefined {
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
