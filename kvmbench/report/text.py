"""A document as text: for a terminal of any width, a mail or a commit message."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from kvmbench.report.document import (
    Cell,
    Code,
    Document,
    Facts,
    Heading,
    Items,
    Note,
    Table,
    Tone,
    Words,
)
from kvmbench.report.escape import visible

__all__ = ["WIDTH", "cell_text", "text"]

WIDTH = 72  # columns: what a commit message, a mail and a quoted mail hold
GAP = 2  # spaces between columns
LEAST = {"key": 32, "word": 16}  # columns, below which a table grows instead
FOLDED = 20  # columns of a key that is longer than a line of WIDTH
TONES = {"good": "32", "bad": "31", "doubt": "33", "mark": "1"}  # ANSI: green, red, yellow, bold
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
    units = any(column.unit for column in table.columns)
    heads = [[visible(c.heading), *([visible(c.unit)] if units else [])] for c in table.columns]
    shown = [[visible(cell_text(cell)) for cell in row] for row in table.rows]
    kinds = [column.kind for column in table.columns]
    natural = [
        max([columns(line) for line in head] + [columns(row[n]) for row in shown])
        for n, head in enumerate(heads)
    ]
    widths = _shrunk(natural, kinds, width)

    def line(cells: Sequence[str], tones: Sequence[Tone]) -> list[str]:
        """Return the lines of a row, whose cells stand in a tone each."""
        folded = zip_longest(*map(_folded, cells, widths), fillvalue="")
        return [
            (" " * GAP).join(map(_set, words, widths, kinds, tones)).rstrip() for words in folded
        ]

    titles = ["\n".join(head) for head in heads]
    high = [len(_folded(*pair)) for pair in zip(titles, widths, strict=True)]
    titles = ["\n" * (max(high) - own) + title for own, title in zip(high, titles, strict=True)]
    lines = line(titles, ["mark" if color else ""] * len(heads))
    last: list[str] = []
    for row, words in zip(table.rows, shown, strict=True):
        cells = []
        for n, (word, kind) in enumerate(zip(words, kinds, strict=True)):
            if kind == "word":
                word = _wrapped(word, max(widths[n], 1)).rstrip("\n")
            elif table.grouped and kind == "key" and words[: n + 1] == last[: n + 1]:
                word = ""
            cells.append(word)
        lines += line(
            cells, [cell.tone if color and isinstance(cell, Cell) else "" for cell in row]
        )
        last = words
    return "\n".join(lines) + "\n"


def columns(text: str) -> int:
    """Return the columns that a line takes in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # few tables need it

    return cell_len(text)


def _folded(cell: str, room: int) -> list[str]:
    """Return the lines of a cell: broken between words, and a longer word where it must be."""
    lines = []
    for text in cell.split("\n"):
        begun = ""
        for word in re.findall(r"\s*\S+\s*", text) if columns(text) > room else [text]:
            if columns(begun) + columns(word.rstrip()) > room and begun:
                lines.append(begun.rstrip())
                begun = ""
            while columns(word.rstrip()) > room:
                fits = next(
                    n for n in range(len(word), 0, -1) if n == 1 or columns(word[:n]) <= room
                )
                lines.append(word[:fits])
                word = word[fits:]
            begun += word
        lines.append(begun.rstrip())
    return lines


def _set(words: str, room: int, kind: str, tone: Tone) -> str:
    """Return the words of a cell's line, padded to `room` columns, in a tone."""
    space = " " * (room - columns(words))
    said = f"\x1b[{TONES[tone]}m{words}\x1b[0m" if tone and words else words
    return space + said if kind == "figure" else said + space


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
