"""The colours of the pictures, for a light and a dark background, and the style sheet that uses them."""

from __future__ import annotations

LIGHT = {
    "bg": "#ffffff",
    "sunk": "#f6f7f8",
    "hover": "#f0f2f4",
    "line": "#e5e8eb",
    "line2": "#cbd1d7",
    "edge": "#7d8894",
    "ink": "#15191e",
    "ink2": "#4f5965",
    "ink3": "#606a76",
    "accent": "#1f5bd8",
    "accent-tint": "#eaf1fe",
    "ok": "#19793f",
    "bad": "#c4232b",
    "bad-tint": "#fdeeee",
    "pause": "#8f5400",
    "pause-tint": "#fdf3e1",
}

DARK = {
    "bg": "#0f1215",
    "sunk": "#15191d",
    "hover": "#1c2126",
    "line": "#262c32",
    "line2": "#3c444c",
    "edge": "#75808b",
    "ink": "#e8ebee",
    "ink2": "#aab3bc",
    "ink3": "#8b95a0",
    "accent": "#78a6ff",
    "accent-tint": "#17243d",
    "ok": "#57c785",
    "bad": "#ff7f7a",
    "bad-tint": "#331619",
    "pause": "#e5ad4d",
    "pause-tint": "#2f230f",
}

FONT_FAMILY = 'Inter, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

_SHAPES = f"""\
text{{font:400 11px {FONT_FAMILY};unicode-bidi:isolate;white-space:pre}}
.name,.number,.count{{font-weight:600}}
.name{{font-size:12px}}
.heading{{font-size:15px;font-weight:600}}
.edge,.sign,.ring,.tick{{fill:none}}
.edge{{stroke-width:1.1}}
.edge.taken{{stroke-width:1.9}}
.edge.never{{stroke-dasharray:1.5 3}}
.ring{{stroke-width:1.5}}
.tick{{stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}}
.may .box,.work .box{{stroke-dasharray:4 3}}
.dashed{{stroke-dasharray:2.6 2.2}}
.label{{stroke-width:3;stroke-linejoin:round;paint-order:stroke}}
"""

_PAINT = (
    ("canvas", "fill:sunk"),
    ("name, heading", "fill:ink"),
    ("text", "fill:ink2"),
    ("faint, number", "fill:ink3"),
    ("label", "stroke:sunk"),
    ("count", "fill:ink"),
    ("box", "fill:bg;stroke:line2"),
    ("sheet", "fill:bg;stroke:line2"),
    ("bar", "fill:ink"),
    ("edge", "stroke:edge"),
    ("tip", "fill:edge"),
    ("edge.taken", "stroke:ink"),
    ("tip.taken", "fill:ink"),
    ("edge.error", "stroke:bad"),
    ("tip.error", "fill:bad"),
    ("fill-ink", "fill:ink"),
    ("fill-ok", "fill:ok"),
    ("fill-bad", "fill:bad"),
    ("fill-pause", "fill:pause"),
    ("fill-accent", "fill:accent"),
    ("ink", "stroke:ink"),
    ("ink3", "stroke:ink3"),
    ("bad", "stroke:bad"),
    ("pause", "stroke:pause"),
    ("accent", "stroke:accent"),
    ("paper", "stroke:bg"),
    ("failed .box", "fill:bad-tint;stroke:bad"),
    ("waiting .box, retrying .box", "fill:pause-tint;stroke:pause"),
    ("running .box", "fill:accent-tint;stroke:accent"),
    ("may .box", "fill:sunk"),
    ("never .box", "fill:hover;stroke:line"),
    ("never .name, may .name", "fill:ink2"),
    ("failed .state", "fill:bad"),
    ("waiting .state, retrying .state", "fill:pause"),
    ("running .state", "fill:accent"),
)
"""What has which colour: classes, and the tokens of their properties. Later entries win."""


def style_sheet(*, adapts: bool = True) -> str:
    """Return the style sheet of a picture.

    With `adapts`, a viewer with a dark background shows dark colours. Without, the sheet has only rules that
    every renderer knows.
    """
    dark = f"@media (prefers-color-scheme:dark){{\n{_paint(DARK)}}}\n" if adapts else ""
    return f"{_SHAPES}{_paint(LIGHT)}{dark}"


def _paint(tokens: dict[str, str]) -> str:
    rules = []
    for selectors, properties in _PAINT:
        selector = ",".join(f".{name}" for name in selectors.split(", "))
        declarations = (entry.split(":") for entry in properties.split(";"))
        body = ";".join(f"{name}:{tokens[token]}" for name, token in declarations)
        rules.append(f"{selector}{{{body}}}\n")
    return "".join(rules)
