"""Page of a plan as one HTML file: the picture, the source, and the findings.

The file loads nothing and runs nothing: its policy allows its own style sheet, by hash, and no script. A step
of the picture is a link to its line in the source. All text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.draw.called_playbooks import CalledPlaybook
from noetl.planner.draw.colours import DARK, LIGHT, style_sheet
from noetl.planner.draw.layout import Layout
from noetl.planner.draw.run_marks import RunMarks
from noetl.planner.draw.svg import PictureOptions, write_svg

_FRAME = """\
*{box-sizing:border-box}
body{margin:0;font:13px/20px Inter,system-ui,"Segoe UI",Roboto,Arial,sans-serif}
main{display:grid;grid-template-columns:minmax(0,3fr) minmax(320px,2fr);min-height:100vh}
figure{margin:0;overflow:auto;max-height:100vh;position:sticky;top:0}
figure svg{display:block;min-width:100%}
section{padding:16px 20px;border-left:1px solid;overflow-x:auto}
figure>h2,figure>p,summary{margin:0;padding:8px 20px}
summary{cursor:pointer}
h2{font-size:13px;font-weight:600;margin:0 0 8px}
ul,ol{list-style:none;margin:0 0 20px;padding:0}
.source{font:12px/18px "JetBrains Mono",ui-monospace,Menlo,Consolas,monospace;counter-reset:line}
.source li{white-space:pre;counter-increment:line;min-height:18px;padding-right:8px;width:max-content}
.source li::before{content:counter(line);display:inline-block;width:4ch;margin-right:2ch;text-align:right}
.findings b{font-weight:600}
a{color:inherit}
svg a:hover .box{stroke-width:2}
@media (max-width:900px){main{display:block}figure{position:static}section{border-left:0}}
"""


def write_page(
    layout: Layout,
    marks: RunMarks | None,
    source: str,
    findings: Sequence[Diagnostic] = (),
    called: Sequence[CalledPlaybook] = (),
) -> str:
    """Return the page of a plan, or of a run. Pictures of called playbooks are below, each folded."""
    style = f"{style_sheet()}{_FRAME}{_tokens(LIGHT)}@media (prefers-color-scheme:dark){{{_tokens(DARK)}}}\n"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    options = PictureOptions(has_style=False, has_links=True)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(layout.chart.name)}</title>",
        f"<style>{style}</style>",
        "<main>",
        f"<figure>{write_svg(layout, marks, options)}",
        *_called_playbooks(called),
        "</figure>",
        "<section>",
        *_findings(findings),
        "<h2>Source</h2>",
        '<ol class="source">',
        *_source(source, findings),
        "</ol>",
        "</section>",
        "</main>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _tokens(tokens: dict[str, str]) -> str:
    return (
        f"body{{color:{tokens['ink']};background:{tokens['bg']}}}"
        f"figure{{background:{tokens['sunk']}}}"
        f"section{{border-color:{tokens['line']}}}"
        f".source li::before{{color:{tokens['ink3']}}}"
        f".source li.error{{background:{tokens['bad-tint']}}}"
        f".source li.warning{{background:{tokens['pause-tint']}}}"
        f".source li:target{{background:{tokens['accent-tint']}}}"
        f".findings .error b{{color:{tokens['bad']}}}"
        f".findings .warning b{{color:{tokens['pause']}}}\n"
    )


def _called_playbooks(called: Sequence[CalledPlaybook]) -> Iterator[str]:
    if called:
        yield "<h2>Called playbooks</h2>"
    for number, playbook in enumerate(called, 1):
        name = f"<bdi>{_escape(str(playbook.call))}</bdi>"
        if playbook.layout is None:
            yield f"<p>{name}: {_escape(playbook.problem)}</p>"
        else:
            options = PictureOptions(has_style=False, prefix=f"c{number}-")
            facts = _escape(playbook.layout.chart.facts)
            yield f"<details><summary>{name}: {facts}</summary>"
            yield f"{write_svg(playbook.layout, None, options)}</details>"


def _findings(findings: Sequence[Diagnostic]) -> Iterator[str]:
    yield f"<h2>Findings: {len(findings) or 'none'}</h2>"
    if not findings:
        return
    yield '<ul class="findings">'
    for finding in findings:
        severity = finding.severity.value
        line = finding.span.line
        hint = f"<br>{_escape(finding.hint)}" if finding.hint else ""
        yield (
            f'<li class="{severity}"><b>{severity} {escape(finding.code)}</b> '
            f'<a href="#L{line}">line {line}</a>: <bdi>{_escape(finding.message)}</bdi>{hint}</li>'
        )
    yield "</ul>"


def _source(source: str, findings: Sequence[Diagnostic]) -> Iterator[str]:
    severities = {finding.span.line: finding.severity.value for finding in reversed(findings)}
    for number, line in enumerate(source.splitlines(), 1):
        severity = severities.get(number)
        marked = f' class="{severity}"' if severity else ""
        yield f'<li id="L{number}"{marked}><bdi>{_escape(line)}</bdi></li>'


def _escape(text: str) -> str:
    return escape(to_printable(text))
