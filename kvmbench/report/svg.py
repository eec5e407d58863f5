"""Plots as SVG: inline in a page, or a picture that stands alone.

Elements have classes, whose rules are in `style`; no element has a link, a script or a style. A
label that has no room is cut in the picture, and whole in the table of figures below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, isfinite
from statistics import median
from typing import NamedTuple

from kvmbench.report.canvas import (
    GAP,
    LINE,
    TALL,
    Canvas,
    Scale,
    axis_words,
    column_width,
    cut,
    px,
    short,
    width_of,
)
from kvmbench.report.document import Plot
from kvmbench.report.escape import html_text
from kvmbench.report.plots import Bars, Curves, Dots, Group, HeatMap, Level, Marks, Panel
from kvmbench.report.style import PATTERNS, PICTURE, colours

__all__ = ["drawn", "legend", "standalone"]

WIDTH = 760  # units of the drawing, pixels where the page has room
LABEL = 250  # widest column of labels
WORDS = 150  # widest column of words at the end of rows
ROW = 24  # height of a row of dots
BAR = 15  # height of a bar
PANEL = (368, 150)  # size of a panel
STACKED = 4  # lines of words about levels, above which one has no words
SPOKEN = 12  # rows of a picture that its alternative text names
COLOURS = 5  # of parts of bars, p0 to p4
LABELLED = 12  # cells of a heat map per row, above which their figures stand in the table only


class Drawing(NamedTuple):
    """A finished picture: its size, its elements, and a title for those who cannot see it."""

    width: float
    height: float
    title: str
    body: str

    def svg(self, number: str, more: str = "") -> str:
        """Return the element; `number` makes its ids unique in a page."""
        return (
            f'<svg viewBox="0 0 {px(self.width)} {px(self.height)}" width="{px(self.width)}" '
            f'height="{px(self.height)}" role="img" aria-labelledby="{number}"{more}>'
            f'<title id="{number}">{html_text(self.title)}</title>{self.body}</svg>'
        )


def drawn(plot: Plot, number: str) -> list[Drawing]:
    """Return the pictures of a plot, one but for panels; `number` is unique in a page."""
    match plot:
        case Bars():
            return [_bars(plot, number)]
        case Dots():
            return [_dots(plot)]
        case Marks():
            return [_panel(plot, panel) for panel in plot.panels]
        case Curves():
            return [_curves(plot)]
        case HeatMap():
            return [_heat_map(plot)]
    raise TypeError(f"{type(plot).__name__} is no kind of plot that is drawn")


def legend(plot: Marks) -> Drawing | None:
    """Return the signs of the series of several panels; None for one series."""
    if len(plot.series) < 2:
        return None
    canvas = Canvas()
    looks = _looks(plot.series)
    signs = [(_sign(*look), name) for look, name in zip(looks, plot.series, strict=True)]
    lines = canvas.legend(GAP, LINE - 4, PANEL[0] - 2 * GAP, signs)
    return Drawing(PANEL[0], LINE * lines + 2, f"Signs: {', '.join(plot.series)}", str(canvas))


def standalone(plot: Plot) -> str:
    """Return a plot as an SVG file, with its title, and light and dark colours.

    Panels stand in two columns below each other.
    """
    heading = Canvas()
    heading.text(GAP, LINE, cut(plot.title, WIDTH - 2 * GAP), "b")
    x, y, tallest = 0.0, LINE + 2.0 * GAP, 0.0
    parts = []
    signs = legend(plot) if isinstance(plot, Marks) else None
    if signs:
        parts.append(f'<g transform="translate(0 {px(y)})">{signs.body}</g>')
        y += signs.height
    for one in drawn(plot, "k"):
        if x + one.width > WIDTH + GAP:
            x, y, tallest = 0.0, y + tallest + GAP, 0.0
        parts.append(f'<g transform="translate({px(x)} {px(y)})">{one.body}</g>')
        x, tallest = x + one.width + 2 * GAP, max(tallest, one.height)
    body = (
        f"<style>{colours()}{PICTURE}</style>"
        f'<rect class="paper" width="100%" height="100%"/>{heading}{"".join(parts)}'
    )
    whole = Drawing(WIDTH, y + tallest + GAP, f"{plot.title}. {plot.about}", body)
    return whole.svg("k", ' xmlns="http://www.w3.org/2000/svg"') + "\n"


# The kinds


def _alt(plot: Plot, said: Sequence[str]) -> str:
    """Return the words of a picture for those who cannot see it: the first of its figures."""
    shown = [" ".join(words.split()).replace(" :", ":") for words in said[:SPOKEN]]
    if more := len(said) - len(shown):
        shown.append(f"{more} more in the table")
    return f"{plot.title}. {'; '.join(shown)}."


def _bars(plot: Bars, number: str) -> Drawing:
    canvas = Canvas()
    numbers = plot.looks or range(len(plot.parts))
    looks = [(f"p{(n + n // COLOURS) % COLOURS}", n % len(PATTERNS)) for n in numbers]
    for pattern in sorted({pattern for _, pattern in looks if pattern}):
        dots = " d" if PATTERNS[pattern].endswith("h.1") else ""
        canvas.raw(
            f'<pattern id="{number}h{pattern}" width="6" height="6" patternUnits="userSpaceOnUse">'
            f'<path class="hatch{dots}" d="{PATTERNS[pattern]}"/></pattern>'
        )

    def filled(x: float, y: float, width: float, height: float, part: int) -> str:
        colour, pattern = looks[part]
        place = f'x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}"'
        hatch = f'<rect fill="url(#{number}h{pattern})" {place}/>' if pattern else ""
        return f'<rect class="{colour}" {place}/>{hatch}<rect class="edge" {place}/>'

    top = 0.0
    if len(plot.parts) > 1:
        entries = [(filled(-7, -6, 14, 12, n), name) for n, name in enumerate(plot.parts)]
        top = LINE * canvas.legend(GAP, LINE - 4, WIDTH - 2 * GAP, entries) + GAP
    labels = column_width([bar.label for bar in plot.bars], LABEL)
    sides = column_width([bar.side for bar in plot.bars], WORDS)
    sums = [sum(bar.parts) for bar in plot.bars]
    ends = column_width([short(total) for total in sums], WORDS)
    left = labels + sides + GAP
    scale = Scale([0, *sums], left, WIDTH - ends - GAP, zero=True)
    top += LINE if len(plot.bars) * BAR > TALL else 0
    places, y, last = [], top, None
    for bar in plot.bars:
        y += GAP + 2 if last is not None and bar.label != last else 0
        places.append(y)
        y, last = y + BAR + 3, bar.label
    canvas.across(scale, top, y, plot.axis)
    last = None
    for bar, total, place in zip(plot.bars, sums, places, strict=True):
        middle = place + BAR - 3
        if bar.label != last:
            canvas.text(GAP, middle, cut(bar.label, labels - GAP))
        last = bar.label
        if sides:
            canvas.text(left - GAP, middle, cut(bar.side, sides - GAP), "soft", "end")
        x = scale(0)
        so_far: float = 0
        for part, value in enumerate(bar.parts):
            so_far += value
            if value and scale(so_far) - x >= 0.8:
                canvas.raw(filled(x, place, scale(so_far) - x, BAR, part))
                x = scale(so_far)
        canvas.text(x + GAP, middle, short(total))
    pairs = zip(plot.bars, sums, strict=True)
    said = [f"{bar.label} {bar.side}: {short(total)}" for bar, total in pairs]
    return Drawing(WIDTH, y + 36, _alt(plot, said), str(canvas))


def _dots(plot: Dots) -> Drawing:
    canvas = Canvas()
    started = any(dot.start is not None for dot in plot.dots)
    signs = []
    if started:
        signs.append(('<circle class="open before" r="4"/>', plot.start))
        signs.append(('<circle class="full after" r="4"/>', plot.end))
    if any(dot.interval for dot in plot.dots):
        signs.append(('<path class="after bar" d="M-7 0H7M-7 -4v8M7 -4v8"/>', "interval"))
    if any(dot.margin for dot in plot.dots):
        signs.append(('<rect class="margin" x="-7" y="-6" width="14" height="12"/>', "margin"))
    top = float(GAP)
    if signs:
        top = LINE * canvas.legend(GAP, LINE - 4, WIDTH - 2 * GAP, signs) + GAP
    labels = column_width([dot.label for dot in plot.dots], LABEL)
    sides = column_width([dot.side for dot in plot.dots], WORDS)
    words = column_width([dot.words for dot in plot.dots], WORDS + 40)
    reach: list[float | None] = [plot.reference]
    for dot in plot.dots:
        reach += [dot.value, dot.start, *(dot.interval or ())]
        if dot.start is not None and dot.margin is not None:
            reach += [dot.start - dot.margin, dot.start + dot.margin]
    scale = Scale(reach, labels + sides + GAP, WIDTH - words - 2 * GAP, log=plot.axis.log)
    top += LINE if len(plot.dots) * ROW > TALL else 0
    bottom = top + ROW * len(plot.dots)
    canvas.across(scale, top, bottom, plot.axis)
    if plot.reference is not None:
        canvas.path(f"M{px(scale(plot.reference))} {px(top)}V{px(bottom)}", "zero")
    last = None
    for n, dot in enumerate(plot.dots):
        y = top + ROW * (n + 0.5)
        if dot.label != last:
            canvas.text(GAP, y + 4, cut(dot.label, labels - GAP))
        last = dot.label
        if dot.side:
            canvas.text(labels, y + 4, cut(dot.side, sides - GAP), "soft")
        if dot.start is not None and dot.margin is not None:
            ends = [scale(dot.start - dot.margin), scale(dot.start + dot.margin)]
            canvas.rect(ends[0], y - 8, max(ends[1] - ends[0], 0.5), 16, "margin")
        if dot.interval is not None:
            low, high = (px(scale(end)) for end in dot.interval)
            canvas.path(f"M{low} {px(y)}H{high}M{low} {px(y - 4)}v8M{high} {px(y - 4)}v8",
                        "after bar")  # fmt: skip
        if dot.start is not None:
            canvas.circle(scale(dot.start), y, 4, "open before")
        if dot.value is not None:
            canvas.circle(scale(dot.value), y, 4, "full after")
        if dot.words:
            look = f"{dot.tone} b" if dot.tone in ("good", "bad", "doubt") else ""
            canvas.text(WIDTH - words, y + 4, cut(dot.words, words - GAP), look)
    said = []
    for dot in plot.dots:
        value = dot.words or ("no figure" if dot.value is None else short(dot.value))
        said.append(f"{dot.label} {dot.side}: {value}")
    return Drawing(WIDTH, bottom + 36, _alt(plot, said), str(canvas))


SERIES = (  # shape, colour
    ("square", "before"), ("round", "after"), ("cross", "third"), ("plus", "third"),
    ("caret", "third"),
)  # fmt: skip
SHAPES = {"cross": "m-3-3l6 6m0-6l-6 6", "plus": "m-4 0h8m-4-4v8", "caret": "m-4 3l4-7l4 7z"}


def _marked(x: float, y: float, shape: str) -> str:
    """Return the path of a mark; a line without length has the shape of its ends."""
    return f"M{px(x)} {px(y)}{SHAPES.get(shape, 'h0')}"


def _looks(series: Sequence[object]) -> list[tuple[str, str]]:
    """Return the shape and the colour of each series; one alone has those of an after."""
    if len(series) == 1:
        return [SERIES[1]]
    return [SERIES[min(number, len(SERIES) - 1)] for number, _ in enumerate(series)]


def _sign(shape: str, colour: str) -> str:
    """Return a mark at the origin, for a legend."""
    return f'<path class="{colour} {shape}" d="{_marked(0, 0, shape)}"/>'


def _panel(plot: Marks, panel: Panel) -> Drawing:
    width, height = (WIDTH, PANEL[1]) if plot.joined else PANEL
    rows = min(sum(bool(level.words) for level in panel.levels), STACKED)
    canvas = Canvas()
    right = width - (GAP if plot.joined else 20 + 16 * len(plot.series))
    height += 14 * rows
    top, bottom = LINE + 10.0 + 14 * rows, height - 20.0
    reach: list[float | None] = [*panel.values, *(level.value for level in panel.levels)]
    if plot.reference is not None:
        reach += [plot.reference + part * (panel.margin or 0.0) for part in (-1, 0, 1)]
    scale = Scale(reach, bottom, top, ticks=4)
    left = GAP + column_width([short(tick) for tick in scale.ticks()], 110)
    step = (right - left) / max(len(plot.places), 1)
    at = [left + step * (n + 0.5) for n in range(len(plot.places))]
    _heading(canvas, panel, width)
    for n, group in enumerate(plot.groups):
        x = left + step * group.first
        if n % 2 == 0:
            canvas.rect(x, top - 4, step * (group.last + 1 - group.first), bottom - top + 8, "band")
    if plot.reference is not None:
        if panel.margin:
            ends = [scale(plot.reference + panel.margin), scale(plot.reference - panel.margin)]
            canvas.rect(left, ends[0], right - left, ends[1] - ends[0], "margin")
        canvas.path(f"M{px(left)} {px(scale(plot.reference))}H{px(right)}", "zero")
    canvas.up(scale, left, right)
    _group_names(canvas, plot.groups, left, step, bottom + 15)
    for number, (shape, colour) in enumerate(_looks(plot.series)):
        known = [
            (x, float(value))
            for x, place, value in zip(at, plot.places, panel.values, strict=True)
            if place.series == number and value is not None
        ]
        if plot.joined:
            line = "L".join(f"{px(x)} {px(scale(value))}" for x, value in known)
            canvas.path(f"M{line}" if known else "", "after thin")
            if len(known) <= 80:
                canvas.path("".join(_marked(x, scale(v), "round") for x, v in known),
                            "after thin small")  # fmt: skip
            continue
        canvas.path("".join(_marked(x, scale(v), shape) for x, v in known), f"{colour} {shape}")
        if len(known) > 1:
            x = right + 12 + 16 * number
            values = [value for _, value in known]
            canvas.path("".join(f"M{px(x)} {px(scale(v))}h9" for v in values), f"{colour} thin")
            canvas.path(f"M{px(x - 2)} {px(scale(median(values)))}h13", f"{colour} thick")
    _levels(canvas, panel.levels, at, step, scale, (top, bottom), rows)
    return Drawing(width, height, _spoken(plot, panel), str(canvas))


def _heading(canvas: Canvas, panel: Panel, width: float) -> None:
    words = cut(panel.words, width / 3) if panel.words else ""
    room = width - 2 * GAP - (width_of(words) + GAP if words else 0)
    unit = cut(panel.unit, room / 2)
    name = html_text(cut(panel.label, room - (width_of(unit) + GAP)))
    more = f'<tspan class="soft" dx="6">{html_text(unit)}</tspan>' if unit else ""
    canvas.raw(f'<text x="{GAP}" y="{LINE - 4}"><tspan class="b">{name}</tspan>{more}</text>')
    if words:
        look = f"{panel.tone} b" if panel.tone in ("good", "bad", "doubt") else ""
        canvas.text(width - GAP, LINE - 4, words, look, "end")


def _group_names(
    canvas: Canvas, groups: Sequence[Group], left: float, step: float, y: float
) -> None:
    """Write the names of groups below them, where they have room."""
    last = 0.0
    for group in groups:
        begin, end = left + step * group.first, left + step * (group.last + 1)
        words = cut(group.name, end - begin)
        if begin >= last and (len(words) > 4 or words == group.name):
            canvas.text((begin + end) / 2, y, words, "soft", "middle")
            last = end


def _levels(
    canvas: Canvas, levels: Sequence[Level], at: Sequence[float], step: float, scale: Scale,
    ends: tuple[float, float], rows: int,
) -> None:  # fmt: skip
    """Draw levels as lines, and a dashed line with its words where one begins."""
    top, bottom = ends
    free = [-1e9] * rows  # the end of each line of words so far
    for level in levels:
        begin, end = at[level.first] - step / 2, at[level.last] + step / 2
        y = scale(level.value)
        canvas.path(f"M{px(begin)} {px(y)}H{px(end)}", "before thick")
        if level.words:
            words = cut(level.words, 300)
            x = min(begin + 4, at[-1] + step / 2 - width_of(words))
            row = next((n for n, taken in enumerate(free) if taken < x), None)
            canvas.path(f"M{px(begin)} {px(top - 4)}V{px(bottom)}", "before dash")
            if row is not None:
                free[row] = x + width_of(words) + GAP
                canvas.text(x, top - 8 - 14 * row, words)


def _spoken(plot: Marks, panel: Panel) -> str:
    """Return a panel in words: each series' number of marks, and its least and greatest figure."""
    said = []
    for number, name in enumerate(plot.series):
        values = [
            value
            for place, value in zip(plot.places, panel.values, strict=True)
            if place.series == number and value is not None
        ]
        if values:
            low, high = short(min(values)), short(max(values))
            said.append(f"{name or 'figures'}: {len(values)} from {low} to {high}")
    return f"{panel.label}, {panel.unit}: {'; '.join(said)}"


def _curves(plot: Curves) -> Drawing:
    canvas = Canvas()
    looks = _looks(plot.curves)
    top = float(GAP)
    if len(plot.curves) > 1:
        signs = [
            (f'<path class="{colour} thin" d="M-7 0h14"/>{_sign(shape, colour)}', curve.name)
            for (shape, colour), curve in zip(looks, plot.curves, strict=True)
        ]
        top = LINE * canvas.legend(GAP, LINE - 4, WIDTH - 2 * GAP, signs) + GAP
    canvas.text(GAP, top + LINE - 6, cut(axis_words(plot.y), WIDTH - 2 * GAP), "soft")
    top, bottom = top + LINE + GAP, top + 300
    reach: list[float | None] = [plot.reference, *(point.y for point in plot.points)]
    for curve in plot.curves:
        reach += curve.values
        reach += [v + s * e for v, e in _errors(curve.values, curve.errors) for s in (-1, 1)]
    down = Scale(reach, bottom, top, log=plot.y.log)
    left = GAP + column_width([short(tick) for tick in down.ticks()], 130)
    xs = [*plot.at, *(point.x for point in plot.points)]
    scale = Scale(xs, left, WIDTH - 2 * GAP, log=plot.x.log)
    canvas.up(down, left, WIDTH - 2 * GAP)
    canvas.across(scale, top, bottom, plot.x)
    if plot.reference is not None:
        canvas.path(f"M{px(left)} {px(down(plot.reference))}H{px(WIDTH - 2 * GAP)}", "zero")
    for (shape, colour), curve in zip(looks, plot.curves, strict=True):
        band = [
            (scale(x), down(v - e), down(v + e))
            for x, v, e in zip(plot.at, curve.values, curve.errors or [None] * len(plot.at),
                               strict=True)
            if v is not None and e is not None
        ]  # fmt: skip
        if len(band) > 1:
            there = "L".join(f"{px(x)} {px(high)}" for x, _, high in band)
            back = "L".join(f"{px(x)} {px(low)}" for x, low, _ in reversed(band))
            canvas.path(f"M{there}L{back}Z", f"error {colour}")
        for run in _unbroken(plot.at, curve.values):
            line = "L".join(f"{px(scale(x))} {px(down(v))}" for x, v in run)
            canvas.path(f"M{line}", f"{colour} bar")
            if len(plot.at) <= 60:
                canvas.path("".join(_marked(scale(x), down(v), shape) for x, v in run),
                            f"{colour} {shape}")  # fmt: skip
    lines = [
        [(scale(x), down(v)) for x, v in run]
        for curve in plot.curves
        for run in _unbroken(plot.at, curve.values)
    ]
    for point in plot.points:
        x, y = scale(point.x), down(point.y)
        canvas.circle(x, y, 8, "third bar")
        words = cut(point.label, 300)
        late = x + width_of(words) + 12 > WIDTH
        begin = x - 12 - width_of(words) if late else x + 12
        places = [y + away for away in (-14, -30, 24, 40, -46) if top + 8 < y + away < bottom - 4]
        box = (begin, begin + width_of(words))
        place = next((at for at in places if not _met(lines, box, at)), y - 14)
        canvas.text(begin, place, words, "b halo")
    said = []
    for curve in plot.curves:
        known = [(x, v) for x, v in zip(plot.at, curve.values, strict=True) if v is not None]
        if known:
            ends = (f"{short(v)} at {short(x)}" for x, v in (known[0], known[-1]))
            said.append(f"{curve.name} from {' to '.join(ends)}")
    said += [f"{point.label} at {short(point.x)}" for point in plot.points]
    return Drawing(WIDTH, bottom + 36, _alt(plot, said), str(canvas))


Line = Sequence[tuple[float, float]]


def _met(lines: Sequence[Line], box: tuple[float, float], y: float) -> bool:
    """Return whether a line passes through words between the ends of `box` on the line `y`."""
    for line in lines:
        for (x0, y0), (x1, y1) in pairwise(line):
            for n in range(9):
                x, at = x0 + (x1 - x0) * n / 8, y0 + (y1 - y0) * n / 8
                if box[0] - 4 < x < box[1] + 4 and y - 16 < at < y + 6:
                    return True
    return False


def _errors(
    values: Sequence[float | None], errors: Sequence[float | None]
) -> Iterator[tuple[float, float]]:
    for value, error in zip(values, errors, strict=False):
        if value is not None and error is not None:
            yield value, error


def _unbroken(
    at: Sequence[float], values: Sequence[float | None]
) -> Iterator[list[tuple[float, float]]]:
    """Yield the runs of neighbouring points that have a figure."""
    run: list[tuple[float, float]] = []
    for x, value in zip(at, values, strict=True):
        if value is not None and isfinite(value):
            run.append((x, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _heat(value: float, most: float) -> str:
    """Return the beginning of a cell in the colour of its figure, on which words can be read."""
    look = "hot" if value >= 0 else "cold"
    return f'<rect class="{look}" fill-opacity="{0.06 + 0.44 * abs(value) / most:.2f}"'


def _heat_map(plot: HeatMap) -> Drawing:
    canvas = Canvas()
    known = [v for line in plot.values for v in line if v is not None and isfinite(v)]
    most = max(map(abs, known), default=0) or 1.0
    labels = GAP + column_width(list(plot.ys), LABEL)
    cell = (WIDTH - labels - GAP) / max(len(plot.xs), 1)
    height = min(max(cell * 0.55, 22), 44)
    top = 2.0 * LINE
    if plot.marked:
        sign = '<rect class="third thick" x="-6" y="-6" width="12" height="12"/>'
        canvas.legend(WIDTH / 2, top - 2, WIDTH / 2, [(sign, plot.mark)])
    canvas.text(GAP, LINE - 4, cut(axis_words(plot.z), WIDTH / 2 - GAP), "soft")
    steps = [most, most / 2, 0.0, *([-most / 2, -most] if min(known, default=0) < 0 else [])]
    scale = [
        (f'{_heat(value, most)} x="-7" y="-6" width="14" height="12"/>', f"{value:.3g}")
        for value in steps
    ]
    canvas.legend(WIDTH / 2, LINE - 4, WIDTH / 2, scale)
    canvas.text(GAP, top - 2, cut(axis_words(plot.y), WIDTH / 2 - GAP), "soft")
    top += GAP
    shown, minus = len(plot.xs) <= LABELLED, ""
    for y, (name, line) in enumerate(zip(plot.ys, plot.values, strict=True)):
        place = top + height * y
        canvas.text(labels - GAP, place + height / 2 + 4, cut(name, labels - GAP), "", "end")
        for x, value in enumerate(line):
            left = labels + cell * x
            if value is None or not isfinite(value):
                canvas.text(left + cell / 2, place + height / 2 + 4, "-", "soft", "middle")
                continue
            canvas.raw(
                f'{_heat(value, most)} x="{px(left)}" y="{px(place)}" '
                f'width="{px(cell - 1)}" height="{px(height - 1)}"/>'
            )
            if shown:
                canvas.text(left + cell / 2, place + height / 2 + 4, f"{value:.3g}", "", "middle")
            elif value < 0:
                minus += f"M{px(left + cell / 2 - 3)} {px(place + height / 2)}h6"
    canvas.path(minus, "third bar")
    canvas.path(
        "".join(
            f"M{px(labels + cell * x + 1.5)} {px(top + height * y + 1.5)}h{px(cell - 4)}"
            f"v{px(height - 4)}h{px(4 - cell)}z"
            for y, x in sorted(plot.marked)
        ),
        "third thick",
    )
    bottom = top + height * len(plot.ys)
    every = max(ceil(column_width(list(plot.xs), LABEL) / cell), 1)
    for x in range(0, len(plot.xs), every):
        words = cut(plot.xs[x], cell * every - GAP)
        canvas.text(labels + cell * (x + 0.5), bottom + 14, words, "", "middle")
    canvas.text((labels + WIDTH) / 2, bottom + 31, cut(axis_words(plot.x), WIDTH - labels), "soft",
                "middle")  # fmt: skip
    said = [f"figures from {short(min(known))} to {short(max(known))}"] if known else []
    return Drawing(WIDTH, bottom + 38, _alt(plot, said), str(canvas))
