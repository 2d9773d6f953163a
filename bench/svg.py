"""The charts: groups of bars with their range, and lines on logarithmic axes. Pure: blocks in, SVG out."""

import math
from collections.abc import Sequence

from bench.blocks import Bars, Chart, Lines
from bench.stats import number
from harness.svg import BLUE, GREEN, INK, RED, line, picture, text

WIDTH, LEFT, RIGHT, BAR = 960, 390, 110, 18
TOP, PLOT = 60, 300
COLOURS = (BLUE, GREEN, RED)
BARS = {"our": BLUE, "floor": GREEN}  # by how a label begins; the others, with whom we compare, are grey
GREY = "#8a94a3"


def chart(block: Chart) -> str:
    return _bars(block) if isinstance(block, Bars) else _lines(block)


def _bars(block: Bars) -> str:
    most = max((high for bars in block.groups.values() for *_, high in bars), default=0.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    parts, y = [text(20, 26, block.title, 15)], 50.0
    for group, bars in block.groups.items():
        parts.append(text(20, y + 4, group, 12))
        y += 12
        for label, value, low, high in bars:
            colour = next((colour for start, colour in BARS.items() if label.startswith(start)), GREY)
            middle, end = y + BAR / 2 - 2, LEFT + value * scale
            parts += [
                text(LEFT - 8, y + 11, label, anchor="end"),
                f'<rect x="{LEFT}" y="{y:.1f}" width="{value * scale:.1f}" height="{BAR - 4}" fill="{colour}"/>',
                line(LEFT + low * scale, middle, LEFT + high * scale, middle, INK),
                text(max(end, LEFT + high * scale) + 6, y + 11, number(value)),
            ]
            y += BAR
        y += 18
    return picture(WIDTH, y, parts)


def _lines(block: Lines) -> str:
    points = [point for series in block.series.values() for point in series if min(point) > 0]
    across, up = _Axis([x for x, _ in points], 70, WIDTH - 250), _Axis([y for _, y in points], TOP + PLOT, TOP)
    parts = [
        text(20, 26, block.title, 15),
        text((70 + WIDTH - 250) / 2, TOP + PLOT + 38, block.across, anchor="middle"),
    ]
    for tick in across.ticks:
        parts += [
            line(across(tick), TOP, across(tick), TOP + PLOT),
            text(across(tick), TOP + PLOT + 18, f"{tick:,g}", anchor="middle"),
        ]
    for tick in up.ticks:
        parts += [line(70, up(tick), WIDTH - 250, up(tick)), text(62, up(tick) + 4, f"{tick:,g}", anchor="end")]
    for place, (label, series) in enumerate(block.series.items()):
        colour, drawn = COLOURS[place % len(COLOURS)], [(across(x), up(y)) for x, y in sorted(series) if min(x, y) > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in drawn]
        parts.append(text(WIDTH - 235, TOP + 14 + 18 * place, label, 12, colour=colour))
    return picture(WIDTH, TOP + PLOT + 55, parts)


class _Axis:
    """Logarithmic, from `start` to `end` in the picture; its ticks are 1, 2 and 5 of each power of ten."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._start, self._end = start, end
        low, high = min(values, default=1.0), max(values, default=10.0)
        steps = [m * 10.0**e for e in range(-4, 9) for m in (1, 2, 5)]
        self._low = max((s for s in steps if s <= low), default=low)
        self._high = max(min((s for s in steps if s >= high), default=high), self._low * 2)
        self.ticks = [s for s in steps if self._low <= s <= self._high]

    def __call__(self, value: float) -> float:
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return self._start + (self._end - self._start) * share
