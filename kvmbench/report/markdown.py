"""A document as Markdown, for an issue, a README or a job's summary."""

from __future__ import annotations

from kvmbench.report.document import Code, Column, Document, Facts, Heading, Items, Note, Words
from kvmbench.report.document import Table as TableBlock
from kvmbench.report.escape import markdown_text, visible
from kvmbench.report.text import cell_text

__all__ = ["heading", "markdown"]

RULES = {"key": ":--", "word": ":--", "figure": "--:"}


def markdown(document: Document) -> str:
    """Return `document` as Markdown, with a newline at its end."""
    return "\n".join(_block(block) for block in document.words())


def heading(column: Column) -> str:
    """Return a column's heading with its unit."""
    return ", ".join(filter(None, (column.heading, column.unit)))


def _block(block: Words) -> str:
    match block:
        case TableBlock(columns, rows):
            lines = [[markdown_text(heading(column)) for column in columns]]
            lines.append([RULES[column.kind] for column in columns])
            lines += [[markdown_text(cell_text(cell)) for cell in row] for row in rows]
            return "".join(f"| {' | '.join(line)} |\n" for line in lines)
        case Heading(words):
            return f"### {markdown_text(words.rstrip(':'))}\n"
        case Note(words):
            return f"{markdown_text(words)}\n"
        case Items(lines_):
            return "".join(f"- {markdown_text(line)}\n" for line in lines_)
        case Facts(pairs):
            return "".join(f"- {markdown_text(n)}: {markdown_text(v or '-')}\n" for n, v in pairs)
        case Code(text):
            body = visible(text, keep="\n").rstrip("\n").replace("```", "` ` `")
            return f"```\n{body}\n```\n"
