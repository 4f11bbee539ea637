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
      {edge.is_error && <path class="diamond" d={diamond(start, marks?.[0] ?? curve[0] ?? tip)} />}
      <path class={`tip ${mark}`} d={arrow(marks?.[1] ?? base, tip)} />
      {words && (
        <text class="label" x={label[0]} y={label[1] + 4} text-anchor={edge.label_at ? "middle" : "start"}>
          {printable(words)}
        </text>
      )}
    </g>
  );
}

type Point = readonly [number, number];

function direction(from: Point, to: Point): Point {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = Math.max(Math.hypot(dx, dy), 0.1);
  return [dx / length, dy / length];
}

/** Return a diamond in which an edge begins, along the edge. */
function diamond(start: Point, towards: Point): string {
  const [ux, uy] = direction(start, towards);
  const corner = (along: number, off: number) => `${start[0] + ux * along - uy * off} ${start[1] + uy * along + ux * off}`;
  return `M${corner(0, 0)}L${corner(5, 3.4)}L${corner(10, 0)}L${corner(5, -3.4)}Z`;
}

function arrow(base: Point, tip: Point): string {
  const [ux, uy] = direction(base, tip);
  const [fx, fy] = [tip[0] - 7 * ux, tip[1] - 7 * uy];
  return `M${tip}L${fx - 3.2 * uy} ${fy + 3.2 * ux}L${fx + 3.2 * uy} ${fy - 3.2 * ux}Z`;
}
