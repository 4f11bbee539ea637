"""The bundle is that of the sources, its types are right, and it is small."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import brotli
import pytest
from fontTools.ttLib import TTFont

from noetl.infra import ui
from noetl.infra.fonts import FEATURES, FONTS, make_fonts
from noetl.infra.ui import BUNDLE, UI, make_bundle
from noetl.planner.draw.colours import DARK, LIGHT

MAX_FIRST_LOAD = 80_000
MAX_LOAD = 250 * 1024
STATIC_IMPORT = re.compile(r"""\b(?:from|import)\s*"\./([\w-]+\.js)\"""")
SAME = ("bg", "sunk", "hover", "line", "line2", "edge", "ink", "ink2", "ink3", "accent", "ok", "bad")


def test_the_bundle_is_made_from_the_sources(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    made = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    kept = {path.name: path.read_bytes() for path in BUNDLE.iterdir()}
    assert made.keys() == kept.keys()
    # Another Node.js may pack a file otherwise.
    for name in [name for name in made if name.endswith(".br")]:
        assert brotli.decompress(kept[name]) == kept[name.removesuffix(".br")], "run `make ui`"
        del made[name]
    assert [name for name in made if made[name] != kept[name]] == [], "run `make ui`"


def test_the_fonts_are_made_from_their_packages() -> None:
    made = make_fonts()
    assert made.keys() == {path.name for path in FONTS.iterdir()}
    for name, content in made.items():
        assert (FONTS / name).read_bytes() == content, "run `python -m noetl.infra.fonts` and `make ui`"
        assert (BUNDLE / name).read_bytes() == content


def test_the_fonts_have_what_the_page_draws() -> None:
    drawn = {number for number in range(0x20, 0x100) if chr(number).isprintable()} | set(map(ord, "…–—’“”•−"))
    for name in ("inter.woff2", "jetbrains-mono.woff2"):
        font = TTFont(FONTS / name)
        characters = set(font.getBestCmap())
        assert drawn <= characters
        assert not [number for number in characters if unicodedata.combining(chr(number))]
        assert font["name"].getDebugName(14)  # the address of its licence
    inter = TTFont(FONTS / "inter.woff2")
    [weight] = inter["fvar"].axes
    assert (weight.axisTag, weight.minValue, weight.defaultValue, weight.maxValue) == ("wght", 400, 400, 650)
    features = {
        record.FeatureTag
        for table in ("GSUB", "GPOS")
        for record in inter[table].table.FeatureList.FeatureRecord
    }
    assert features == set(FEATURES)


def test_a_mistake_in_the_sources_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "ui"
    shutil.copytree(UI, copy)
    with (copy / "source" / "format.ts").open("a") as file:
        file.write("export const wrong: number = 'text';\n")
    monkeypatch.setattr(ui, "UI", copy)
    with pytest.raises(subprocess.CalledProcessError) as raised:
        make_bundle(tmp_path / "bundle")
    assert "source/format.ts" in raised.value.output
    assert not (tmp_path / "bundle").exists()


def test_the_page_is_small() -> None:
    loaded = [path for path in BUNDLE.iterdir() if path.suffix in (".js", ".css", ".woff2")]
    first = [path for path in loaded if path.suffix != ".js"] + imported_scripts("app.js")
    assert len(first) < len(loaded)
    assert packed_bytes(first) <= MAX_FIRST_LOAD
    assert packed_bytes(loaded) <= MAX_LOAD


def imported_scripts(name: str) -> list[Path]:
    """Return a script of the bundle, and those that load with it. Others load when their view is shown."""
    names = [name]
    for found in names:
        names += set(STATIC_IMPORT.findall((BUNDLE / found).read_text("utf-8"))) - set(names)
    return [BUNDLE / found for found in names]


def packed_bytes(files: list[Path]) -> int:
    """Return the bytes of files as browsers receive them."""
    packed = [file if file.suffix == ".woff2" else file.with_name(f"{file.name}.br") for file in files]
    return sum(file.stat().st_size for file in packed)


def test_the_page_has_the_colours_of_pictures() -> None:
    style = (UI / "source" / "page.css").read_text("utf-8")
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", style)
    assert len(blocks) == 3
    for selector, block in blocks:
        tokens = dict(re.findall(r"--([\w-]+): (#\w+);", block))
        expected = LIGHT if selector.strip() == ":root" else DARK
        assert {name: tokens[name] for name in SAME} == {name: expected[name] for name in SAME}
        assert tokens["wait"] == expected["pause"]


def test_the_bundle_lists_the_licences_of_its_packages() -> None:
    text = (BUNDLE / "LICENSES.txt").read_text("utf-8")
    assert re.findall(r"^(?:----\n\n)?(\S+) \d+\.\d+\.\d+$", text, re.MULTILINE) == [
        "preact",
        "@codemirror/autocomplete",
        "@codemirror/commands",
        "@codemirror/lang-yaml",
        "@codemirror/language",
        "@codemirror/search",
        "@codemirror/state",
        "@codemirror/view",
        "@lezer/common",
        "@lezer/highlight",
        "@lezer/lr",
        "@lezer/yaml",
        "@marijn/find-cluster-break",
        "crelt",
        "diff",
        "style-mod",
        "w3c-keyname",
        "@fontsource-variable/inter",
        "@fontsource/jetbrains-mono",
    ]
    assert text.count("SIL OPEN FONT LICENSE") == 2 and "The MIT License" in text
    assert text.count("BSD 3-Clause License") == 1
