"""A document: headings, tables, notes, plots and records, before any form is chosen.

Each subject makes its own; `kvmbench.report.write` turns any of them into text, Markdown, CSV,
JSON or HTML, which alone draws the plots (kvmbench/report/plots.py has their kinds). Cells are
strings, rounded by the subject, which knows what a figure can resolve; the unrounded values stand
in `records` and `data`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Block", "Cell", "Code", "Column", "Document", "Facts", "Heading", "Items", "Note"]
__all__ += ["Plot", "Record", "Table", "Tone"]

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
    """A cell whose text is shown in a colour; the words alone must say the same.

    `notes` are the names of the notes that explain it, which HTML links to.
    """

    text: str
    tone: Tone = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns. With `grouped`, a key that repeats the row above is blank.

    `wide` is the same content in more columns, for a form that has room for it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    grouped: bool = False
    wide: "Table | None" = None


class Heading(NamedTuple):
    """The heading of the blocks that follow."""

    text: str


class Note(NamedTuple):
    """A paragraph; a cell refers to it by its name."""

    text: str
    name: str = ""


class Items(NamedTuple):
    """A list of short paragraphs."""

    lines: Sequence[str]


class Facts(NamedTuple):
    """Names and values, such as the fields of a host."""

    pairs: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Lines that keep their breaks: a command, a file's content."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture as data, for a form that can draw it; the others leave it out.

    `title` is one line, `about` tells how to read the picture. Its subclasses are in `plots`.
    """

    title: str
    about: str = ""

    def table(self) -> Table:
        """Return the figures of the picture."""
        raise NotImplementedError


Words = Heading | Note | Items | Facts | Code | Table
Block = Words | Plot


@dataclass(frozen=True, slots=True)
class Document:
    """A document of one subject: a result, a verdict, a host.

    `title` is one sentence without a full stop; `records` are flat dicts, one per row, which CSV,
    pandas and polars take; `data` is the JSON document, or a function that makes it, and names its
    `schema`; `forms` are forms that only this document has, by name; `fields` are the keys of the
    records where there may be none.
    """

    title: str
    blocks: Sequence[Block] = ()
    records: Sequence[Record] = ()
    data: Any = None
    forms: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    fields: Sequence[str] = ()

    def words(self) -> list[Words]:
        """Return the title as a note, and the blocks without the plots."""
        title: list[Words] = [Note(self.title)] if self.title else []
        return title + [block for block in self.blocks if not isinstance(block, Plot)]
