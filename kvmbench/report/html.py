"""A document as a fragment of HTML, which notebooks show."""

from __future__ import annotations

from kvmbench.report.document import Block, Code, Document, Facts, Heading, Items, Note, Table
from kvmbench.report.escape import html_text
from kvmbench.report.markdown import heading
from kvmbench.report.text import cell_text

__all__ = ["fragment"]


def fragment(document: Document) -> str:
    """Return `document` as HTML elements without a style or a script."""
    title = f"<p>{html_text(document.title)}</p>" if document.title else ""
    return f"<div>{title}{''.join(map(_block, document.blocks))}</div>"


def _block(block: Block) -> str:
    match block:
        case Table(columns, rows):
            head = "".join(f"<th>{html_text(heading(column))}</th>" for column in columns)
            body = "".join(
                f"<tr>{''.join(f'<td>{html_text(cell_text(cell))}</td>' for cell in row)}</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        case Heading(words):
            return f"<h4>{html_text(words)}</h4>"
        case Note(words):
            return f"<p>{html_text(words)}</p>"
        case Items(lines):
            return f"<ul>{''.join(f'<li>{html_text(line)}</li>' for line in lines)}</ul>"
        case Facts(pairs):
            rows_ = (f"<dt>{html_text(n)}</dt><dd>{html_text(v or '-')}</dd>" for n, v in pairs)
            return f"<dl>{''.join(rows_)}</dl>"
        case Code(text):
            return f"<pre>{html_text(text)}</pre>"
