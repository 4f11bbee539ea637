"""Contrast of the colours of the page, as WCAG 2.2 computes it, on each background on which they stand."""

from __future__ import annotations

import re

import pytest

from noetl.infra.ui import UI

MIN_TEXT = 4.5
MIN_TINTED = 4.8
MIN_GRAPHIC = 3.0
TEXTS = ("ink", "ink2", "ink3", "accent", "ok", "bad", "wait")
TINTS = {"accent": "accent-tint", "ok": "ok-tint", "bad": "bad-tint", "wait": "wait-tint"}
GRAPHICS = ("edge", "bar", "ok-bar")


def read_schemes() -> list[dict[str, str]]:
    """Return the colours of the light scheme, and of the two places of the dark scheme."""
    style = (UI / "source" / "page.css").read_text("utf-8")
    blocks = [block for _, block in re.findall(r"(:root[^{]*)\{([^}]*)\}", style)]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_the_standard_says() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", range(3), ids=["light", "dark by system", "dark by choice"])
def test_texts_and_graphics_have_contrast(scheme: int) -> None:
    colours = read_schemes()[scheme]
    weak = {
        (text, ground): round(contrast(colours[text], colours[ground]), 2)
        for text in TEXTS
        for ground in ("bg", "sunk", "hover")
        if contrast(colours[text], colours[ground]) < MIN_TEXT
    }
    for name, tint in TINTS.items():
        for text in (name, "ink", "ink2"):
            if (ratio := contrast(colours[text], colours[tint])) < MIN_TINTED:
                weak[text, tint] = round(ratio, 2)
    if (ratio := contrast(colours["on-accent"], colours["accent"])) < MIN_TEXT:
        weak["on-accent", "accent"] = round(ratio, 2)
    for name in GRAPHICS:
        for ground in ("bg", "sunk"):
            if (ratio := contrast(colours[name], colours[ground])) < MIN_GRAPHIC:
                weak[name, ground] = round(ratio, 2)
    assert weak == {}


@pytest.mark.parametrize("scheme", range(3), ids=["light", "dark by system", "dark by choice"])
def test_the_parts_of_a_bar_have_contrast(scheme: int) -> None:
    """Runs that were cancelled stand next to those that succeeded in a bar of the histogram."""
    colours = read_schemes()[scheme]
    style = (UI / "source" / "page.css").read_text("utf-8")
    parts = dict(re.findall(r"\.histogram \.(\w+) \{ --part: var\(--([\w-]+)\)", style))
    assert parts.keys() == {"rest", "open", "bad", "stopped"}
    assert contrast(colours[parts["stopped"]], colours[parts["rest"]]) >= MIN_GRAPHIC
    assert min(contrast(colours[part], colours["bg"]) for part in parts.values()) >= MIN_GRAPHIC


def test_the_two_dark_schemes_are_one() -> None:
    _, by_system, by_choice = read_schemes()
    assert by_system == by_choice
