"""A document as HTML: a page in one file with its pictures, or a fragment that notebooks show.

A page has no script and no reference outside it, and its Content-Security-Policy allows neither.
"""

from __future__ import annotations

from base64 import b64encode

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
    Table,
)
from kvmbench.report.escape import html_text, visible
from kvmbench.report.markdown import heading
from kvmbench.report.plots import Marks
from kvmbench.report.style import PAGE, PICTURE, colours
from kvmbench.report.svg import drawn, legend, standalone
from kvmbench.report.text import cell_text

__all__ = ["fragment", "page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
KINDS = {"key": "k", "word": "w", "figure": "f"}
LONG = 14  # characters of a word column's cell, above which the column has a least width
DENSE = 7  # columns, above which they stand closer
TITLE = 200  # characters of a page's title in a browser's tab


def fragment(document: Document) -> str:
    """Return `document` as HTML elements without a style or a script; plots are images in it."""
    title = f"<p>{html_text(document.title)}</p>" if document.title else ""
    return f"<div>{title}{''.join(map(_plain, document.blocks))}</div>"


def _plain(block: Block) -> str:
    match block:
        case Plot(title=title, about=about):
            data = b64encode(standalone(block).encode()).decode()
            words = html_text(f"{title}. {about}")
            return f'<p><img alt="{words}" src="data:image/svg+xml;base64,{data}"></p>'
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


def page(document: Document) -> str:
    """Return `document` as one HTML file, with a newline at its end."""
    writer = _Page(document)
    title = document.title or "kvmbench"
    body = "\n".join(map(writer.block, document.blocks))
    short = visible(title)[:TITLE]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html_text(short)}</title>\n"
        f"<style>\n{colours()}{PAGE}{PICTURE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{html_text(title)}</h1>\n{body}\n"
        "<footer>Written by kvmbench. Each picture's figures are in the table below it.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _long(cell: str | Cell) -> bool:
    return len(cell_text(cell)) > LONG or (isinstance(cell, Cell) and bool(cell.notes))


class _Page:
    """The blocks of a page; it numbers the pictures and the notes that cells refer to."""

    def __init__(self, document: Document) -> None:
        self._plots = 0
        names = (block.name for block in document.blocks if isinstance(block, Note))
        self._notes = {name: f"note{n}" for n, name in enumerate(dict.fromkeys(names)) if name}
        self._written: set[str] = set()
        self._tables = 0

    def block(self, block: Block) -> str:
        match block:
            case Plot():
                return self._figure(block)
            case Table():
                return self._table(block)
            case Heading(words):
                return f"<h2>{html_text(words.rstrip(':'))}</h2>"
            case Note(words, name) if name:
                new = name not in self._written
                self._written.add(name)
                place = f' id="{self._notes[name]}"' if new else ""
                return f"<p{place}><b>{html_text(name)}</b>: {html_text(words)}</p>"
        return _plain(block)

    def _figure(self, plot: Plot) -> str:
        self._plots += 1
        number = f"p{self._plots}"
        pictures = [
            one.svg(f"{number}t{n}" if n else f"{number}t")
            for n, one in enumerate(drawn(plot, number))
        ]
        inside = f"<div class=scroll tabindex=0 role=region aria-labelledby={number}>{{}}</div>"
        picture = inside.format("".join(pictures))
        if isinstance(plot, Marks):
            signs = legend(plot)
            picture = f"<div class=signs>{signs.svg(f'{number}s')}</div>" if signs else ""
            picture = f"<div class=panels>{picture}{''.join(pictures)}</div>"
        about = f"<p>{html_text(plot.about)}</p>" if plot.about else ""
        table = self._table(plot.table(), f"Figures: {plot.title}")
        return (
            f"<figure aria-labelledby={number}><figcaption><h2 id={number}>{html_text(plot.title)}"
            f"</h2></figcaption>{about}{picture}<details><summary>The figures as a table</summary>"
            f"{table}</details></figure>"
        )

    def _table(self, table: Table, label: str = "Table") -> str:
        table = table.wide or table
        kinds = [KINDS[column.kind] for column in table.columns]
        for n, kind in enumerate(kinds):  # the words of a long cell get room, and stay few lines
            if kind == "w" and any(_long(row[n]) for row in table.rows):
                kinds[n] = "l"
        head = "".join(map(self._head, table.columns, kinds))
        keyed = next((n for n, kind in enumerate(kinds) if kind == "k"), -1)
        body = "\n".join(
            f"<tr>{''.join(self._cell(c, kinds[n], n == keyed) for n, c in enumerate(row))}</tr>"
            for row in table.rows
        )
        self._tables += 1
        name = html_text(label if label != "Table" else f"Table {self._tables}")
        dense = " class=dense" if len(kinds) > DENSE else ""
        return (
            f'<div class=scroll tabindex=0 role=region aria-label="{name}"><table{dense}>'
            f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
        )

    def _head(self, column: Column, kind: str) -> str:
        unit = f" <small>{html_text(column.unit)}</small>" if column.unit else ""
        return f"<th scope=col class={kind}>{html_text(column.heading)}{unit}</th>"

    def _cell(self, cell: str | Cell, kind: str, names_row: bool) -> str:
        words = html_text(cell_text(cell))
        if names_row:
            tone = "" if isinstance(cell, str) else cell.tone
            look = f'"{kind} {tone}"' if tone else kind
            return f"<th scope=row class={look}>{words}</th>"
        if isinstance(cell, str) or not (cell.tone or cell.notes):
            return f"<td>{words}</td>" if kind == "f" else f"<td class={kind}>{words}</td>"
        linked = []
        for note in cell.notes:
            place, name = self._notes.get(note), html_text(note)
            linked.append(f'<a href="#{place}">{name}</a>' if place else name)
        words += f" <small>{', '.join(linked)}</small>" if linked else ""
        look = f'"{kind} {cell.tone}"' if cell.tone and cell.text else kind
        return f"<td class={look}>{words}</td>"
