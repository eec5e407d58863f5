"""Documents, and one writer per form; a subject makes a document and knows no form."""

from __future__ import annotations

from kvmbench.report.document import (
    Block,
    Cell,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Items,
    Note,
    Plot,
    Record,
    Table,
    Tone,
)
from kvmbench.report.escape import csv_cell, visible
from kvmbench.report.markdown import markdown
from kvmbench.report.text import WIDTH, text

__all__ = ["ENDINGS", "FORMS", "WIDTH", "Block", "Cell", "Code", "Column", "Document", "Facts"]
__all__ += ["Heading", "Items", "Note", "Plot", "Record", "Reported", "Table", "Tone", "write"]

FORMS = ("text", "markdown", "csv", "json", "html")
"""The forms that every document with records has."""

ENDINGS = {
    ".txt": "text", ".md": "markdown", ".csv": "csv", ".json": "json", ".html": "html",
    ".htm": "html", ".xml": "junit",
}  # fmt: skip
"""A file name's ending, and the form that it asks for."""


def write(document: Document, form: str, *, width: int = WIDTH, color: bool = False) -> str:
    """Return `document` in one of FORMS or of the document's forms, with a newline at its end.

    `width` (columns) and `color` are of text only. Raises ValueError for another form.
    """
    if form in document.forms:
        return visible(document.forms[form](), keep="\n\t")
    match form:
        case "text":
            return text(document, width, color=color)
        case "markdown":
            return markdown(document)
        case "csv":
            import csv
            import io

            keys = (key for record in document.records for key in record)
            headings = list(dict.fromkeys(keys)) or document.fields
            out = io.StringIO()
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(map(csv_cell, headings))
            for record in document.records:
                writer.writerow(csv_cell(record.get(key)) for key in headings)
            return out.getvalue()
        case "json":
            import json

            data = document.data() if callable(document.data) else document.data
            return json.dumps(data, indent=2, allow_nan=False) + "\n"
        case "html":
            from kvmbench.report.html import page  # only this form needs the pictures

            return page(document)
    raise ValueError(f"form is {form!r}, not one of {', '.join((*FORMS, *document.forms))}")


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
        from kvmbench.report.html import fragment

        return fragment(self.document())
