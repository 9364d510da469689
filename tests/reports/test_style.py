"""Contrast of the page's colours, in both schemes (WCAG 2.2 AA: 4.5 for text, 3 for graphics)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

Colour = tuple[float, float, float]
CSS = files("saescope.reports").joinpath("style.css").read_text("utf-8")
SCHEMES = dict(zip(("light", "dark"), re.findall(r":root \{(.*?)\}", CSS, re.S), strict=True))
SHADES = [float(shade) for shade in re.findall(r"--shade: ([.\d]+)", CSS)]


def colours(scheme: str) -> dict[str, Colour]:
    found: dict[str, Colour] = {}
    for name, value in re.findall(r"--([\w-]+): ([^;]+);", SCHEMES[scheme]):
        if value.startswith("#"):
            found[name] = tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[assignment]
        elif re.fullmatch(r"\d+ \d+ \d+", value):
            found[name] = tuple(float(part) for part in value.split())  # type: ignore[assignment]
    return found


def luminance(colour: Colour) -> float:
    def linear(part: float) -> float:
        part /= 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(part) for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_its_grounds(scheme: str) -> None:
    palette = colours(scheme)
    for text in ("text", "quiet", "link"):
        for ground in ("ground", "panel"):
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_on_every_shade(scheme: str) -> None:
    palette = colours(scheme)
    assert len(SHADES) == 8
    assert sorted(SHADES) == SHADES
    for shade in SHADES:
        ground = tuple(shade * h + (1 - shade) * p for h, p in zip(palette["heat"], palette["panel"], strict=True))
        assert contrast(palette["heat-text"], ground) >= 4.5, shade  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_bars(scheme: str) -> None:
    palette = colours(scheme)
    for name in ("s0", "s1", "s2", "fill"):
        assert contrast(palette[name], palette["panel"]) >= 3, name
