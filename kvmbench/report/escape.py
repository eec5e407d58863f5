"""Characters that must not reach a terminal, a spreadsheet, Markdown or HTML as they stand.

A name, a note or a path can come from a stranger's file. Escape sequences move a terminal's
cursor, bidirectional controls reorder what a reader sees, a cell that begins with `=` is a formula.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

__all__ = ["csv_cell", "html_text", "json_text", "markdown_text", "visible", "xml_text"]

HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # controls, formats (bidi among them), surrogates
INLINE = r"([\\`*\[\]<|&~]|(?<!\w)_|_(?!\w))"
BLOCK = r"^(?=#{1,6}(\s|$)|>|[+-]\s|(=+|--+)\s*$)"  # headings, a quote, an item
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # OWASP


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


def json_text(encoded: bytes) -> bytes:
    """Return JSON that has each such character as `\\u`, which readers take for the character."""
    return _spelt(encoded, lambda c: re.sub("(....)", r"\\u\1", c.encode("utf-16-be").hex()))


def xml_text(encoded: bytes) -> bytes:
    """Return XML that has each such character as a reference, `&#x202e;`."""
    return _spelt(encoded, lambda c: f"&#x{ord(c):x};")


def _spelt(encoded: bytes, spell: Callable[[str], str]) -> bytes:
    """Return text in UTF-8 with what is hidden beyond ASCII's controls spelt otherwise."""
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    hidden = re.compile("[\x7f-\U0010ffff]")
    return hidden.sub(
        lambda found: found[0] if visible(found[0]) == found[0] else spell(found[0]),
        encoded.decode(),
    ).encode()


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
    shown = re.sub(INLINE, r"\\\1", visible(text.replace("\n", " ").lstrip()))
    return re.sub(BLOCK, r"\\", shown)


def html_text(text: str) -> str:
    """Return `text` that HTML shows as it stands."""
    from html import escape  # its table of entities is for pages only

    return escape(visible(text, keep="\n"))
