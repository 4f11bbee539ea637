"""The pictures of the examples in the documentation: `python -m noetl.infra.pictures` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from noetl.api.pictures import lay_out, to_png
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.draw import boxes
from noetl.planner.draw.svg import write_svg
from noetl.planner.draw.text import headline
from noetl.planner.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "how-to" / "read-a-picture.md"
EXAMPLES = (
    "quickstart",
    "retry_and_recover",
    "fan_out",
    "approval",
    "close_day",
    "onboard_user",
    "paid_invoice",
)

WIDTH = 90

_HEAD = """\
# Pictures of the examples

How do the signs of a picture look? This page shows the examples as `noetl plan FILE -o FILE.svg` draws them,
and as `noetl plan` draws them in a terminal. PNG is for programs that show no SVG. [The
reference](../reference/commands.md#pictures) explains the signs.
"""


def main() -> None:
    for path, content in expected_files().items():
        path.write_bytes(content)
        print(path.relative_to(ROOT))


def expected_files() -> Mapping[Path, bytes]:
    """Return the contents of the page and of all pictures by their paths."""
    plans = {name: _plan(name) for name in EXAMPLES}
    files = {}
    for name, plan in plans.items():
        layout = lay_out(plan, catalogue())
        files[FOLDER / f"{name}.svg"] = write_svg(layout).encode()
        files[FOLDER / f"{name}.png"] = to_png(layout)
    page = "".join([_HEAD, *(section for name, plan in plans.items() for section in _section(name, plan))])
    return {**files, PAGE: page.encode()}


def _plan(name: str) -> Plan:
    plan = compile_playbook((ROOT / "examples" / f"{name}.yaml").read_bytes(), catalogue()).plan
    assert plan is not None, name
    return plan


def _section(name: str, plan: Plan) -> Iterator[str]:
    yield f"\n## {name.replace('_', ' ').capitalize()}\n\n"
    yield f"![The graph of `{name}`](../images/{name}.svg)\n\n[The same as PNG](../images/{name}.png)\n\n"
    drawn = boxes.draw(plan, catalogue(), width=WIDTH)
    assert drawn is not None, name
    yield f"`noetl plan examples/{name}.yaml` prints in a terminal:\n\n"
    yield f"```text\n{headline(plan)}\n{drawn}```\n"


if __name__ == "__main__":
    main()
