"""Diagrams of pages: Mermaid blocks drawn as SVG when the site is built.

Problem: code hosts draw Mermaid blocks, but the script of Mermaid is 3 MB and would come from another host.
The site has static pictures instead, which need no script and can be printed.

Algorithm: each statement of a block is translated to DOT, and Graphviz draws it. Only the part of Mermaid
that the pages need is known: flowcharts with nodes, labelled edges and subgraphs, and state diagrams with
labelled transitions. Every other statement is an error, so no diagram differs silently from that of a code
host.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import lru_cache

from noetl.api.graphviz import render

_FLOWCHART = re.compile(r"(?:flowchart|graph) (TD|TB|LR|RL|BT)")
_SUBGRAPH = re.compile(r"subgraph (?:(?P<id>\w+) ?\[(?P<quoted>.+)\]|(?P<title>.+))")
_NODE = re.compile(
    r"(?P<id>\w+)"
    r"(?P<shape>\[\[|\[\(|\(\(\(|\(\(|\(\[|\{\{|\[|\(|\{)?"
    r"""(?(shape)(?P<label>"[^"]*"|.*?)(?:\)\)\)|\)\)|\]\)|\]\]|\)\]|\}\}|\]|\)|\}))"""
    r"(?::::\w+)?"
)
_ARROW = re.compile(
    r"\s*(?P<line>-->|---|-\.->|-\.-|==>|===)(?:\|(?P<label>[^|]*)\|)?\s*"
    r"|\s*--\s+(?P<text>.+?)\s+-->\s*"
)
_TRANSITION = re.compile(r"(?P<source>\[\*\]|\w+) --> (?P<target>\[\*\]|\w+)(?:\s*:\s*(?P<label>.+))?")
_STATE = re.compile(r'state "(?P<label>[^"]+)" as (?P<id>\w+)')
_SHAPES = {"{": "diamond", "((": "circle", "(((": "doublecircle", "[(": "cylinder", "{{": "hexagon"}
_HEAD = (
    'bgcolor="transparent", nodesep=0.4, ranksep=0.45, fontname="Helvetica", fontsize=12, '
    'color="#8c959f", fontcolor="#57606a", style=rounded'
)
_NODE_STYLE = 'shape=box, style="rounded,filled", fillcolor="#f6f8fa", color="#57606a", fontname="Helvetica"'
_EDGE_STYLE = 'fontname="Helvetica", fontsize=11, arrowsize=0.8, color="#57606a", fontcolor="#57606a"'


class DiagramError(Exception):
    """A statement of a diagram is not known. `line` counts from the first line of the block."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@lru_cache(maxsize=256)
def draw_svg(mermaid: str) -> str:
    """Return the SVG element of a Mermaid block, on one line.

    Raises:
        DiagramError: a statement is not known.
        GraphvizError: Graphviz is not installed or has failed.
    """
    svg = render(translate(mermaid), "svg").decode()
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<!--.*?-->|<title>.*?</title>", "", element, flags=re.DOTALL)
    element = re.sub(
        r'<svg width="(\d+)pt" height="\d+pt"', r'<svg role="img" style="--width: \1pt"', element
    )
    words = ", ".join(" ".join(text.split()) for text in re.findall(r">([^<>]+)</text>", element))
    element = element.replace("<svg ", f'<svg aria-label="Diagram: {words}" ', 1)
    return re.sub(r"\s*\n\s*", " ", element).strip()


def translate(mermaid: str) -> str:
    """Return a Mermaid block as DOT.

    Raises:
        DiagramError: a statement is not known.
    """
    lines = mermaid.splitlines()
    kind = lines[0].strip() if lines else ""
    statements = [
        (number, line.strip().rstrip(";"))
        for number, line in enumerate(lines, 1)
        if number > 1 and line.strip() and not line.strip().startswith(("%%", "classDef ", "class "))
    ]
    if match := _FLOWCHART.fullmatch(kind):
        direction, body = match[1].replace("TD", "TB"), _translate_flowchart(statements)
    elif kind == "stateDiagram-v2":
        direction, body = "TB", _translate_states(statements)
    else:
        raise DiagramError(1, f"unknown kind of diagram `{kind}`: use `flowchart` or `stateDiagram-v2`")
    dot = (f"graph [rankdir={direction}, {_HEAD}]", f"node [{_NODE_STYLE}]", f"edge [{_EDGE_STYLE}]", *body)
    return "\n".join(("digraph {", *dot, "}\n"))


def _translate_flowchart(statements: list[tuple[int, str]]) -> Iterator[str]:
    depth = 0
    for number, statement in statements:
        if match := _SUBGRAPH.fullmatch(statement):
            depth += 1
            title = (match["quoted"] or match["title"]).strip('"')
            yield f"subgraph cluster_{number} {{ label={_quote(title)}"
        elif statement == "end" and depth:
            depth -= 1
            yield "}"
        else:
            yield from _translate_chain(number, statement)
    if depth:
        raise DiagramError(len(statements) + 1, "subgraph without `end`")


def _translate_chain(number: int, statement: str) -> Iterator[str]:
    """Translate a node, or nodes with arrows between them."""
    position = 0
    sources: list[str] = []
    attributes: list[str] = []
    while True:
        targets = []
        while match := _NODE.match(statement, position):
            targets.append(match["id"])
            yield from _declare_node(match)
            position = match.end()
            if separator := re.compile(r"\s*&\s*").match(statement, position):
                position = separator.end()
                continue
            break
        if not targets:
            break
        yield from (
            f"{source} -> {target} [{', '.join(attributes)}]" for source in sources for target in targets
        )
        if position == len(statement):
            return
        arrow = _ARROW.match(statement, position)
        if arrow is None:
            break
        sources, attributes, position = targets, _arrow_attributes(arrow), arrow.end()
    raise DiagramError(number, f"unknown statement `{statement}`: use nodes, arrows and `subgraph`")


def _declare_node(match: re.Match[str]) -> Iterator[str]:
    if match["shape"]:
        label = (match["label"] or "").strip('"')
        shape = f", shape={_SHAPES[match['shape']]}" if match["shape"] in _SHAPES else ""
        yield f"{match['id']} [label={_quote(label)}{shape}]"
    else:
        yield match["id"]


def _arrow_attributes(match: re.Match[str]) -> list[str]:
    line = match["line"] or "-->"
    attributes = []
    if label := match["label"] or match["text"]:
        attributes.append(f"label={_quote(_pad(label))}")
    if ">" not in line:
        attributes.append("arrowhead=none")
    if "." in line:
        attributes.append("style=dashed")
    if "=" in line:
        attributes.append("penwidth=2")
    return attributes


def _translate_states(statements: list[tuple[int, str]]) -> Iterator[str]:
    """Translate a state diagram.

    A transition to the same state is a line of its node, because loops cross other edges.
    """
    dot = 'label="", style=filled, fillcolor="#57606a", class=mark'
    yield f"_start [shape=circle, width=0.16, {dot}]"
    if any(statement.endswith("--> [*]") for _, statement in statements):
        yield f"_end [shape=doublecircle, width=0.1, {dot}]"
    for number, statement in statements:
        if match := _STATE.fullmatch(statement):
            yield f"{match['id']} [label={_quote(match['label'])}]"
        elif (match := _TRANSITION.fullmatch(statement)) and match["source"] == match["target"]:
            causes = re.split(r"<br ?/?>", match["label"] or "")
            label = "\n".join((match["source"], *(f"↻ {cause}" for cause in causes)))
            yield f"{match['source']} [label={_quote(label)}]"
        elif match:
            source = "_start" if match["source"] == "[*]" else match["source"]
            target = "_end" if match["target"] == "[*]" else match["target"]
            label = f" [label={_quote(_pad(match['label']))}]" if match["label"] else ""
            yield f"{source} -> {target}{label}"
        else:
            raise DiagramError(
                number, f'unknown statement `{statement}`: use `A --> B: text` or `state "text" as A`'
            )


def _pad(label: str) -> str:
    """Return a label with blanks around each line, which keep it clear of its edge."""
    return "\n".join(f" {line.strip()} " for line in re.split(r"<br ?/?>", label.strip('"')))


def _quote(label: str) -> str:
    text = html.unescape(re.sub(r"#(\w+);", r"&#\1;", re.sub(r"<br ?/?>", "\n", label)))
    text = re.sub(r"</?[bi]>", "", text)
    escaped = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
