/** A small picture of a large drawing, with the part that is shown. A click moves this part. */

import { useMemo } from "preact/hooks";

import type { DrawnGraph } from "../answers";
import { toneOf } from "../parts/state";
import { isStep } from "./neighbours";

export const MINIMAP_FROM = 60;
const WIDTH = 168;
const HEIGHT = 120;

interface Props {
  graph: DrawnGraph;
  view: { x: number; y: number; zoom: number };
  panel: { width: number; height: number };
  onMove: (x: number, y: number) => void;
}

export function Minimap({ graph, view, panel, onMove }: Props) {
  const scale = Math.min(WIDTH / graph.width, HEIGHT / graph.height);
  const paths = useMemo(() => {
    const tones = new Map<string, string>();
    for (const node of graph.nodes.filter(isStep)) {
      const tone = node.state ? toneOf(node.state) : "quiet";
      tones.set(tone, `${tones.get(tone) ?? ""}M${node.x} ${node.y}h${node.width}v${node.height}h${-node.width}Z`);
    }
    return [...tones];
  }, [graph]);
  const move = (event: PointerEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    onMove((event.clientX - box.left) / scale, (event.clientY - box.top) / scale);
  };
  return (
    <svg
      class="minimap"
      width={graph.width * scale}
      height={graph.height * scale}
      viewBox={`0 0 ${graph.width} ${graph.height}`}
      aria-hidden="true"
      onPointerDown={(event) => {
        event.stopPropagation();
        event.currentTarget.setPointerCapture(event.pointerId);
        move(event);
      }}
      onPointerMove={(event) => event.buttons && move(event)}
    >
      {paths.map(([tone, path]) => (
        <path key={tone} class={tone} d={path} />
      ))}
      <rect
        class="part"
        x={-view.x / view.zoom}
        y={-view.y / view.zoom}
        width={panel.width / view.zoom}
        height={panel.height / view.zoom}
        vector-effect="non-scaling-stroke"
      />
    </svg>
  );
}
