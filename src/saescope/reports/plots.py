"""Plots as inline SVG: lines and histograms, coloured by the page's style sheet, readable by a screen reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from saescope.reports.escaping import visible
from saescope.reports.scales import Scale, linear, readable

_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
_identifiers = count(1)


@dataclass(frozen=True)
class Line:
    """A curve. `marks` shows its points, with their values on hover. Colour and dash follow its place in the plot, or `slot`
    where a curve must look the same in several. ends: of each point's interval, drawn as a bar; None where there is none."""

    label: str
    points: Sequence[tuple[float, float]]
    marks: bool = False
    slot: int | None = None
    ends: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class Bars:
    """Counts between edges, drawn filled, or as an outline where it is the one compared with."""

    label: str
    edges: Sequence[float]
    counts: Sequence[float]
    outline: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot with its words. `summary` says in a sentence what it shows, for those who cannot see it. whole_x: ticks at whole
    numbers only. lowest: where the y axis ends at the latest; what is below is drawn at its edge."""

    title: str
    x_label: str
    summary: str
    lines: Sequence[Line] = ()
    bars: Sequence[Bars] = ()
    log_y: bool = False
    y_label: str = ""
    power_of_ten_x: bool = False
    note: str = ""
    limits: tuple[float, float] | None = field(default=None)
    whole_x: bool = False
    lowest: float | None = None
    log_x: bool = False

    def svg(self) -> str:
        """A <figure> with the drawing, its legend where there are several curves, and the note."""
        drawn = [line for line in self.lines if line.points]
        if not drawn and not any(sum(bars.counts) for bars in self.bars):
            return (
                f'<figure class="plot"><figcaption>{visible(self.title)}</figcaption>'
                '<p class="quiet">Nothing was recorded.</p></figure>'
            )
        x, y = self._scales(drawn)
        name = f"plot{next(_identifiers)}"
        parts = [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{name}t {name}d">',
            f'<title id="{name}t">{visible(self.title)}</title><desc id="{name}d">{visible(self.summary)}</desc>',
            self._axes(x, y),
            *(self._bars(number, bars, x, y) for number, bars in enumerate(self.bars)),
            *(self._line(_slot(number, line), line, x, y) for number, line in enumerate(drawn)),
            "</svg>",
        ]
        note = f'<p class="quiet">{visible(self.note)}</p>' if self.note else ""
        caption = f"<figcaption>{visible(self.title)}</figcaption>"
        return f'<figure class="plot">{caption}{self._legend(drawn)}{"".join(parts)}{note}</figure>'

    def _scales(self, lines: list[Line]) -> tuple[Scale, Scale]:
        xs = [x for line in lines for x, _ in line.points] + [edge for bars in self.bars for edge in bars.edges]
        ys = [y for line in lines for _, y in line.points] + [number for bars in self.bars for number in bars.counts]
        ys += [end for line in lines for ends in line.ends if ends is not None for end in ends]
        low, high = self.limits or (min(xs), max(xs))
        if self.log_x and low <= 0:
            # A coder that is dead has an L0 of 0: drawn at the edge, so that the others keep their axis.
            low = min((x for x in xs if x > 0), default=0)
        if self.log_x and low > 0:
            x = Scale(low / 1.1, high * 1.1, _LEFT, _WIDTH - _RIGHT, log=True)
        else:
            x = Scale(low, high if high > low else low + 1, _LEFT, _WIDTH - _RIGHT)
        if self.log_y and (positive := [value for value in ys if value > 0]):
            bottom, top = min(positive), max(positive)
            return x, Scale(bottom / 1.15, top * 1.15, _HEIGHT - _BOTTOM, _TOP, log=True)
        bottom = 0.0 if min(ys) >= 0 else max(min(ys), -math.inf if self.lowest is None else self.lowest)
        return x, linear(bottom, max(ys) if max(ys) > bottom else bottom + 1, _HEIGHT - _BOTTOM, _TOP)

    def _axes(self, x: Scale, y: Scale) -> str:
        parts = []
        for tick in y.ticks(4):
            at = y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{at + 3.5:.1f}">{readable(tick)}</text>')
        floor = _HEIGHT - _BOTTOM
        for tick in x.ticks(5):
            if self.whole_x and tick != round(tick):
                continue
            at = x(tick)
            shown = _power(tick) if self.power_of_ten_x else readable(tick)
            parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
            parts.append(f'<text class="tick middle" x="{at:.1f}" y="{floor + 16}">{shown}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text class="label middle" x="{middle:.0f}" y="{_HEIGHT - 6}">{visible(self.x_label)}</text>')
        if self.y_label:
            centre = (_TOP + floor) / 2
            parts.append(
                f'<text class="label middle" transform="translate(11 {centre:.0f}) rotate(-90)">{visible(self.y_label)}</text>'
            )
        return "".join(parts)

    def _line(self, number: int, line: Line, x: Scale, y: Scale) -> str:
        places = [(x(at), y(value)) for at, value in line.points if math.isfinite(value)]
        path = " ".join(f"{'L' if i else 'M'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(places))
        drawn = f'<path class="line s{number}" d="{path}"/>'
        for (at, _), ends in zip(line.points, line.ends, strict=False):
            if ends is not None:
                drawn += f'<path class="ends s{number}" d="M{x(at):.1f} {y(ends[0]):.1f} V{y(ends[1]):.1f}"/>'
        if not line.marks:
            return drawn
        dots = [
            f'<circle class="dot s{number}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.6">'
            f"<title>{visible(line.label)}: {readable(value)} at {readable(at)}</title></circle>"
            for at, value in line.points
            if math.isfinite(value)
        ]
        return drawn + "".join(dots)

    def _bars(self, number: int, bars: Bars, x: Scale, y: Scale) -> str:
        floor = _HEIGHT - _BOTTOM
        inside = [
            (left, right, value)
            for left, right, value in zip(bars.edges, bars.edges[1:], bars.counts, strict=False)
            if left >= x.low - 1e-9 and right <= x.high + 1e-9
        ]
        if bars.outline:
            path = f"M{x(inside[0][0]):.1f} {floor}" if inside else ""
            for left, right, value in inside:
                path += f" L{x(left):.1f} {y(value):.1f} L{x(right):.1f} {y(value):.1f}"
            return f'<path class="line s{number}" d="{path} L{x(inside[-1][1]):.1f} {floor}"/>' if inside else ""
        drawn = []
        for left, right, value in inside:
            if not value:
                continue
            top, width = y(value), max(1.0, x(right) - x(left) - 1)
            where = f"{_power(left)} to {_power(right)}" if self.power_of_ten_x else f"{left:.2f} to {right:.2f}"
            drawn.append(
                f'<rect class="bar s{number}" x="{x(left):.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{max(0.5, floor - top):.1f}"><title>{where}: {readable(value)}</title></rect>'
            )
        return "".join(drawn)

    def _legend(self, lines: list[Line]) -> str:
        entries = [(_slot(number, line), line.label, "line") for number, line in enumerate(lines)]
        entries += [(number, bars.label, "line" if bars.outline else "bar") for number, bars in enumerate(self.bars)]
        if len(entries) < 2:
            return ""
        items = []
        for number, label, kind in entries:
            swatch = (
                f'<path class="line s{number}" d="M0 5 H22"/>'
                if kind == "line"
                else f'<rect class="bar s{number}" x="4" width="14" height="10"/>'
            )
            items.append(
                f'<span><svg class="swatch" viewBox="0 0 22 10" aria-hidden="true">{swatch}</svg>{visible(label)}</span>'
            )
        return f'<p class="legend">{"".join(items)}</p>'


def _slot(number: int, line: Line) -> int:
    return number if line.slot is None else line.slot


def _power(value: float) -> str:
    """10 to the value, in words short enough for an axis."""
    if abs(value - round(value)) > 1e-9:
        return f"{10**value:.2g}"
    return {0: "1", -1: "0.1", -2: "0.01", -3: "0.001"}.get(round(value), f"1e{round(value)}")
