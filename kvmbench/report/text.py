"""A document as text: for a terminal of any width, a mail or a commit message."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from kvmbench.report.document import Cell, Code, Document, Facts, Heading, Items, Note, Table, Words
from kvmbench.report.escape import visible

__all__ = ["WIDTH", "cell_text", "text"]

WIDTH = 72  # columns: what a commit message, a mail and a quoted mail hold
GAP = 2  # spaces between columns
LEAST = {"key": 32, "word": 16}  # columns, below which a table grows instead
FOLDED = 20  # columns of a key that is longer than a line of WIDTH
TONES = {"good": "green", "bad": "red", "doubt": "yellow", "mark": "bold", "": ""}
STICKY = {" %": "\xa0%", " ->": "\xa0->"}  # a line begins with neither


def text(document: Document, width: int = WIDTH, *, color: bool = False) -> str:
    """Return `document` as text of `width` columns, with a newline at its end.

    A key is never cut: a table that `width` cannot hold grows. `color` adds ANSI sequences.
    """
    return "\n".join(_block(block, width, color) for block in document.words())


def _block(block: Words, width: int, color: bool) -> str:
    match block:
        case Table():
            return _table(block, width, color)
        case Code(lines):
            return visible(lines, keep="\n").rstrip("\n") + "\n"
        case Heading(words) | Note(words):
            return _wrapped(words, width)
        case Items(lines):
            return "".join(_wrapped(line, width, "  ") for line in lines)
        case Facts(pairs):
            return _facts(pairs, width)


def _wrapped(words: str, width: int, indent: str = "") -> str:
    """Return a paragraph in lines of at most `width` columns; a longer word stays whole."""
    shown = visible(words)
    for plain, sticky in STICKY.items():
        shown = shown.replace(plain, sticky)
    lines = textwrap.fill(
        shown, width, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\xa0", " ") + "\n"


def _facts(pairs: Sequence[tuple[str, str]], width: int) -> str:
    """Return `name  value` lines, the values aligned and wrapped below themselves.

    A name that is longer than half a line stands above its value.
    """
    names = [visible(name) for name, _ in pairs]
    room = max((len(name) for name in names if len(name) <= width // 2), default=0) + GAP
    lines = []
    for name, (_, value) in zip(names, pairs, strict=True):
        first, *more = _wrapped(value or "-", width - room).splitlines()
        if len(name) + GAP > room:
            lines.append(name)
            name = ""
        lines += [f"{name:{room}}{first}", *(" " * room + line for line in more)]
    return "\n".join(lines) + "\n"


def cell_text(cell: str | Cell) -> str:
    """Return a cell's words."""
    return cell if isinstance(cell, str) else cell.text


def _table(table: Table, width: int, color: bool) -> str:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    units = any(column.unit for column in table.columns)
    heads = [[visible(c.heading), *([visible(c.unit)] if units else [])] for c in table.columns]
    shown = [[visible(cell_text(cell)) for cell in row] for row in table.rows]
    natural = [
        max([cell_len(line) for line in head] + [cell_len(row[n]) for row in shown])
        for n, head in enumerate(heads)
    ]
    widths = _shrunk(natural, [column.kind for column in table.columns], width)
    drawn = Drawn(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)
    for column, head, room in zip(table.columns, heads, widths, strict=True):
        figure = column.kind == "figure"
        drawn.add_column(
            Text("\n".join(head), style="bold"), width=room, no_wrap=figure,
            justify="right" if figure else "left", overflow="fold",
        )  # fmt: skip
    last: list[str] = []
    for row, words in zip(table.rows, shown, strict=True):
        cells = []
        for n, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            said = words[n]
            if column.kind == "word":  # rich breaks lines at no-break spaces
                said = _wrapped(said, max(widths[n], 1)).rstrip("\n")
            elif table.grouped and column.kind == "key" and words[: n + 1] == last[: n + 1]:
                said = ""
            cells.append(Text(said, style="" if isinstance(cell, str) else TONES[cell.tone]))
        last = words
        drawn.add_row(*cells)
    console = Console(
        file=io.StringIO(), width=sum(widths) + GAP * (len(widths) - 1), force_terminal=color,
        no_color=not color, color_system="standard" if color else None, highlight=False,
        markup=False, emoji=False, legacy_windows=False,
        force_jupyter=False,  # else a notebook shows an empty output besides the text
    )  # fmt: skip
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().split("\n"))


def _shrunk(natural: Sequence[int], kinds: Sequence[str], width: int) -> list[int]:
    """Return the columns' widths: words give way first, then keys, the widest of each first.

    No column becomes narrower than its least.
    """
    widths = list(natural)
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    for kind in ("word", "key"):
        while excess > 0:
            room = {n: width for n, width in enumerate(widths) if kinds[n] == kind}
            widest = max(room, key=room.__getitem__, default=0)
            folded = kind == "key" and natural[widest] > max(width, WIDTH)
            if room.get(widest, 0) <= (FOLDED if folded else LEAST[kind]):
                break
            widths[widest] -= 1
            excess -= 1
    return widths
