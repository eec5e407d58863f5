"""The means of drawing: places and widths, scales with their ticks, and a canvas of SVG elements.

`kvmbench.report.svg` draws plots with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10
from unicodedata import east_asian_width

from kvmbench.report.escape import html_text, visible
from kvmbench.report.plots import Axis

__all__ = ["GAP", "LINE", "TALL", "Canvas", "Scale", "axis_words", "column_width", "cut", "px"]
__all__ += ["short", "width_of"]

CHARACTER = 7.2  # width of one, in the widest of common fonts
LINE = 17  # height of a line of text
GAP = 6
TALL = 400  # height of rows, above which the axis has its figures at the top too
LARGE = {1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M"}


def px(value: float) -> str:
    """Return a coordinate to a tenth."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0" if abs(value) < 0.05 else "-0")


def width_of(words: str) -> float:
    """Return the width of words: a capital is wider, a wide character counts as two."""
    return CHARACTER * sum(
        2 if east_asian_width(c) in "WF" else 1.17 if c.isupper() else 1 for c in words
    )


def cut(words: str, room: float) -> str:
    """Return words that fit into `room`, with an ellipsis where their end is left out."""
    shown = visible(words.replace("\n", " "))[:500]
    if width_of(shown) <= room and len(shown) == len(words):
        return shown
    while shown and width_of(shown) + CHARACTER > room:
        shown = shown[:-1]
    return shown + "\u2026"


def column_width(words: Sequence[str], most: float) -> float:
    """Return the width of a column that holds these words, with a gap, or `most`."""
    longest = max((width_of(visible(one)[:500]) for one in words), default=0)
    return min(longest + 2 * GAP, most) if longest else 0


def short(value: float) -> str:
    """Return a figure for an axis or a bar: large ones with a prefix, 10.9M."""
    for size, sign in LARGE.items():
        if abs(value) >= size:
            return f"{value / size:,.4g}{sign}"
    if value and abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.6g}" if value != int(value) else f"{value:,.0f}"


class Scale:
    """The places of an axis: figures between `low` and `high` onto pixels `begin` to `end`."""

    def __init__(
        self, values: Sequence[float | None], begin: float, end: float, *, log: bool = False,
        zero: bool = False, ticks: int = 6,
    ) -> None:  # fmt: skip
        known = [float(v) for v in values if v is not None and isfinite(v)]
        self.log = log and bool(known) and min(known) > 0
        if self.log:
            known = [log10(v) for v in known]
        low, high = min(known, default=0.0), max(known, default=1.0)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            half = abs(high) / 100 or 0.5
            low, high = low - (0 if zero and low == 0 else half), high + half
        room = 0.04 * (high - low)
        self._low = low if zero and low == 0 else low - room
        self._high = high if zero and high == 0 else high + room
        self.begin, self.end, self._count = begin, end, ticks

    def __call__(self, value: float) -> float:
        """Return the place of a figure; one outside the axis is at its end."""
        if self.log:
            value = log10(value) if value > 0 else self._low
        share = (value - self._low) / (self._high - self._low)
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round figures within the axis."""
        if self.log and self._high - self._low >= 1:
            powers = range(ceil(self._low), floor(self._high) + 1)
            fine = [1, 2, 5] if len(powers) < 3 else [1]
            first, last = floor(self._low), ceil(self._high)
            found = [m * 10.0**p for p in range(first, last + 1) for m in fine]
            return [t for t in found if self._low <= log10(t) <= self._high]
        low, high = (10**end if self.log else end for end in (self._low, self._high))
        raw = (high - low) / self._count
        power = 10.0 ** floor(log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
        first = ceil(low / step)
        return [n * step for n in range(first, floor(high / step * (1 + 1e-12)) + 1)]


class Canvas:
    """Elements as they are drawn, with the classes of their `look`; `str` joins them."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def __str__(self) -> str:
        return "".join(self._parts)

    def text(self, x: float, y: float, words: str, look: str = "", anchor: str = "") -> None:
        """Add words that begin at x, or with `anchor` end or have their middle there."""
        known = {"": "", "end": ' text-anchor="end"', "middle": ' text-anchor="middle"'}[anchor]
        named = f' class="{look}"' if look else ""
        self._parts.append(f'<text x="{px(x)}" y="{px(y)}"{named}{known}>{html_text(words)}</text>')

    def path(self, d: str, look: str) -> None:
        """Add a path, unless it is empty."""
        if d:
            self._parts.append(f'<path class="{look}" d="{d}"/>')

    def rect(self, x: float, y: float, width: float, height: float, look: str) -> None:
        """Add a rectangle."""
        self._parts.append(
            f'<rect class="{look}" x="{px(x)}" y="{px(y)}" width="{px(width)}" '
            f'height="{px(height)}"/>'
        )

    def circle(self, x: float, y: float, r: float, look: str) -> None:
        """Add a circle."""
        self._parts.append(f'<circle class="{look}" cx="{px(x)}" cy="{px(y)}" r="{px(r)}"/>')

    def raw(self, element: str) -> None:
        """Add an element whose text is escaped already."""
        self._parts.append(element)

    def across(self, scale: Scale, top: float, bottom: float, axis: Axis) -> None:
        """Draw a horizontal axis at `bottom` with its grid, ticks and name."""
        self.path("".join(f"M{px(scale(t))} {px(top)}V{px(bottom)}" for t in scale.ticks()), "grid")
        self.path(f"M{px(scale.begin)} {px(bottom)}H{px(scale.end)}", "axis")
        last = -1e9
        for tick in scale.ticks():
            words = short(tick)
            if scale(tick) - width_of(words) / 2 > last + GAP:
                self.text(scale(tick), bottom + 14, words, "soft", "middle")
                if bottom - top > TALL:
                    self.text(scale(tick), top - 4, words, "soft", "middle")
                last = scale(tick) + width_of(words) / 2
        room = scale.end - scale.begin
        self.text((scale.begin + scale.end) / 2, bottom + 31, cut(axis_words(axis), room), "soft",
                  "middle")  # fmt: skip

    def up(self, scale: Scale, left: float, right: float) -> None:
        """Draw a vertical axis at `left` with its grid and ticks."""
        self.path("".join(f"M{px(left)} {px(scale(t))}H{px(right)}" for t in scale.ticks()), "grid")
        for tick in scale.ticks():
            self.text(left - 4, scale(tick) + 4, short(tick), "soft", "end")

    def legend(self, left: float, y: float, room: float, entries: Sequence[tuple[str, str]]) -> int:
        """Draw signs with their names in lines from `left`; return the number of lines.

        A sign is elements around the origin, 14 wide.
        """
        x, lines = left, 1
        for sign, name in entries:
            words = cut(name, room - 24)
            width = 20 + width_of(words) + 2 * GAP
            if x > left and x + width > left + room:
                x, lines = left, lines + 1
            at = y + (lines - 1) * LINE
            self._parts.append(f'<g transform="translate({px(x + 7)} {px(at - 4)})">{sign}</g>')
            self.text(x + 18, at, words, "soft")
            x += width
        return lines


def axis_words(axis: Axis) -> str:
    """Return the name of an axis with its unit, and whether it is logarithmic."""
    log = "logarithmic" if axis.log else ""
    return ", ".join(filter(None, (axis.label, axis.unit, log)))
