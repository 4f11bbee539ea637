/** The edges of a drawing: curves, arrow heads, diamonds of error cases, and labels. */

import { memo } from "preact/compat";

import type { GraphEdge } from "../answers";
import { count } from "../format";
import { printable } from "../parts/value";

export const Edges = memo(
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
