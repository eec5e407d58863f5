"""The base of results that print as their commands do; every subject's result is one."""

from __future__ import annotations

from kvmbench.report.document import Document, Record
from kvmbench.report.html import fragment
from kvmbench.report.text import text

__all__ = ["Reported"]


class Reported:
    """A result that prints as its command does. A subclass defines `document()`."""

    __slots__ = ()

    def document(self) -> Document:
        """Return the document that the command prints."""
        raise NotImplementedError

    def records(self) -> list[Record]:
        """Return the rows as flat dicts, unrounded, as pandas and polars take them."""
        return list(self.document().records)

    def __str__(self) -> str:
        return text(self.document()).rstrip("\n")

    def _repr_html_(self) -> str:
        return fragment(self.document())
