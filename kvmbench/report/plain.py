"""Tables of strings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from kvmbench.report.figures import count, figure, signed

__all__ = ["WIDTH", "Table", "count", "fact", "figure", "fill", "markdown", "signed", "text"]

WIDTH = 72  # columns of a commit message


class Table(NamedTuple):
    """A table of strings; the first `names` columns are names, the others are figures."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


def text(table: Table, width: int = WIDTH) -> str:
    """Return `table` with its columns aligned, names to the left and figures to the right.

    A name in the first column that would push the table past `width` is cut.
    """
    widths = [max(map(len, column)) for column in zip(table.headings, *table.rows, strict=True)]
    room = width - sum(widths[1:]) - 2 * len(widths[1:])
    widths[0] = min(widths[0], max(room, 8))
    lines = []
    for row in (table.headings, *table.rows):
        cells = [_clip(row[0], widths[0]), *row[1:]]
        sides = [str.ljust] * table.names + [str.rjust] * (len(cells) - table.names)
        padded = [pad(cell, width) for pad, cell, width in zip(sides, cells, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def _clip(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 2] + ".."


def markdown(table: Table) -> str:
    """Return `table` as a Markdown table."""
    rule = [":--"] * table.names + ["--:"] * (len(table.headings) - table.names)
    rows = (table.headings, rule, *table.rows)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def fact(name: str, value: object, indent: int = 12) -> str:
    """Return `name  value`, wrapped to 80 columns and aligned at `indent`; `-` for no value."""
    wrapped = textwrap.wrap(
        str(value) or "-", 80 - indent, break_long_words=False, break_on_hyphens=False
    )
    lines = (wrapped[0], *(" " * indent + line for line in wrapped[1:]))
    return f"{name:{indent}}" + "\n".join(lines) + "\n"


def fill(words: str, width: int = WIDTH, indent: str = "") -> str:
    """Return `words` in lines of at most `width` columns, the later ones indented as the first."""
    together = words.replace(" %", "\xa0%")  # no line begins with a percent sign
    lines = textwrap.fill(
        together, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return lines.replace("\xa0%", " %") + "\n"
