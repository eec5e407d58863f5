"""The mixin of the objects that print as their command does."""

from __future__ import annotations

from kvmbench.report.document import Document, Record

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
        from kvmbench.report.text import text

        return text(self.document()).rstrip("\n")

    def _repr_html_(self) -> str:
        from kvmbench.report.html import fragment

        return fragment(self.document())
