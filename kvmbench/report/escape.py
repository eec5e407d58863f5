"""Characters that must not reach a terminal, a spreadsheet, Markdown or HTML as they stand.

A name, a note or a path can come from a stranger's file. Escape sequences move a terminal's
cursor, bidirectional controls reorder what a reader sees, a cell that begins with `=` is a formula.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["csv_cell", "html_text", "markdown_text", "visible"]

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # controls, formats (bidi among them), surrogates
MARKUP = r"([\\`*\[\]<|&~]|(?<!\w)_|_(?!\w)|^[#>+-](?= ))"
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str, keep: str = "") -> str:
    """Return `text` with each control, format or bidirectional character written out, `\\x1b`.

    The characters in `keep` stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in keep or not (unicodedata.category(c) in HIDDEN or _no_character(c))
        else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )  # fmt: skip


def _no_character(c: str) -> bool:
    """Return whether `c` is one of Unicode's noncharacters, two of which no XML may hold."""
    return ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF


def csv_cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    shown = visible(value, keep="\n")
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def markdown_text(text: str) -> str:
    """Return `text` that Markdown shows as it stands, on one line."""
    return re.sub(MARKUP, r"\\\1", visible(text.replace("\n", " ")))


def html_text(text: str) -> str:
    """Return `text` that HTML shows as it stands."""
    from html import escape  # its table of entities is for pages only

    return escape(visible(text, keep="\n"))
