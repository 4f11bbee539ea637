"""README fits on a screen and a half. Its example and its picture are those of the quickstart."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from noetl.api.pictures import lay_out
from noetl.executor.actions import catalogue
from noetl.infra.reference import ROOT
from noetl.planner.compile import compile_playbook
from noetl.planner.draw.svg import write_svg

README = (ROOT / "README.md").read_text("utf-8")
PLAYBOOK = (ROOT / "examples" / "quickstart.yaml").read_text("utf-8")
PICTURE = ROOT / "docs" / "images" / "quickstart.svg"
MOST_LINES = 80


def labels(svg: str) -> list[str]:
    """Return the texts of a picture. Positions and widths depend on the version of Graphviz."""
    texts = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return sorted(element.text or "" for element in texts)


def test_readme_fits_on_a_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_the_example_has_steps_of_the_quickstart() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert [step for step in block.split("\n\n") if step not in PLAYBOOK] == []


def test_the_picture_is_the_graph_of_the_quickstart() -> None:
    plan = compile_playbook(PLAYBOOK, catalogue()).plan
    assert plan is not None
    drawn = write_svg(lay_out(plan, catalogue()))
    assert labels(PICTURE.read_text("utf-8")) == labels(drawn), (
        f"run `noetl plan examples/quickstart.yaml -o {PICTURE.relative_to(ROOT)}`"
    )
    assert f'<img src="{PICTURE.relative_to(ROOT)}"' in README


def test_the_first_commands_are_targets_of_make() -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    targets = re.findall(r"^make ([\w-]+)", block, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets == ["run", "test"]
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []
