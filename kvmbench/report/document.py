"""A document: headings, tables, notes and records, before any form is chosen.

Each subject makes its own; `kvmbench.report.write` turns any of them into text, Markdown, CSV or
JSON. Cells are strings, rounded by the subject, which knows what a figure can resolve; the
unrounded values stand in `records` and `data`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Block", "Cell", "Code", "Column", "Document", "Facts", "Heading", "Items", "Note"]
__all__ += ["Record", "Table", "Tone"]

Record = dict[str, Any]
Tone = Literal["", "good", "bad", "doubt", "mark"]


class Column(NamedTuple):
    """A column of a table.

    `kind`: a `key` names the row and is never cut, a `word` wraps, a `figure` is set to the right
    and does neither. `unit` stands below the heading in text and after it elsewhere.
    """

    heading: str
    kind: Literal["key", "word", "figure"] = "figure"
    unit: str = ""


class Cell(NamedTuple):
    """A cell whose text a terminal shows in a colour; the words alone must say the same."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns. With `grouped`, a key that repeats the row above is blank."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    grouped: bool = False


class Heading(NamedTuple):
    """The heading of the blocks that follow."""

    text: str


class Note(NamedTuple):
    """A paragraph."""

    text: str


class Items(NamedTuple):
    """A list of short paragraphs."""

    lines: Sequence[str]


class Facts(NamedTuple):
    """Names and values, such as the fields of a host."""

    pairs: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Lines that keep their breaks: a command, a file's content."""

    text: str


Block = Heading | Note | Items | Facts | Code | Table


@dataclass(frozen=True, slots=True)
class Document:
    """A document of one subject: a result, a verdict, a host.

    `title` is one sentence without a full stop; `records` are flat dicts, one per row, which CSV,
    pandas and polars take; `data` is the JSON document and names its `schema`; `forms` are forms
    that only this document has, by name.
    """

    title: str
    blocks: Sequence[Block] = ()
    records: Sequence[Record] = ()
    data: Any = None
    forms: Mapping[str, Callable[[], str]] = field(default_factory=dict)
