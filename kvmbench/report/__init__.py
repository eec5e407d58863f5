"""Documents, and one writer per form; a subject makes a document and knows no form."""

from __future__ import annotations

import csv
import io
import json

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
    Record,
    Table,
    Tone,
)
from kvmbench.report.escape import csv_cell, visible
from kvmbench.report.reported import Reported
from kvmbench.report.text import WIDTH

__all__ = [
    "ENDINGS",
    "FORMS",
    "WIDTH",
    "Block",
    "Cell",
    "Code",
    "Column",
    "Document",
    "Facts",
    "Heading",
    "Items",
    "Note",
    "Record",
    "Reported",
    "Table",
    "Tone",
    "write",
]

FORMS = ("text", "markdown", "csv", "json")
"""The forms that every document with records has."""

ENDINGS = {
    ".txt": "text", ".md": "markdown", ".csv": "csv", ".json": "json", ".xml": "junit",
}  # fmt: skip
"""A file name's ending, and the form that it asks for."""


def write(document: Document, form: str, *, width: int = WIDTH, color: bool = False) -> str:
    """Return `document` in one of FORMS or of its own forms, with a newline at its end.

    `width` (columns) and `color` are of text only. Raises ValueError for another form.
    """
    if form in document.forms:
        return visible(document.forms[form](), keep="\n\t")
    if form == "text":
        from kvmbench.report.text import text

        return text(document, width, color=color)
    if form == "markdown":
        from kvmbench.report.markdown import markdown

        return markdown(document)
    if form == "csv":
        return _csv(document)
    if form == "json":
        return json.dumps(document.data, indent=2, allow_nan=False) + "\n"
    known = ", ".join((*FORMS, *document.forms))
    raise ValueError(f"form is {form!r}, not one of {known}")


def _csv(document: Document) -> str:
    headings = list(dict.fromkeys(key for record in document.records for key in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(csv_cell, headings))
    for record in document.records:
        writer.writerow([csv_cell(record.get(key)) for key in headings])
    return out.getvalue()
