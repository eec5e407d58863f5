"""Mails as archives store them, and their bodies' encodings. `formats.decode` reads with it."""

from __future__ import annotations

import binascii
import quopri
import re

__all__ = ["plain"]

# The encoding of what follows, until another one or another mail of an mbox.
_ENCODING = re.compile(
    rb"^(?:Content-Transfer-Encoding:[ \t]*\"?([\w-]+)|From [^\n]*\d:\d\d:\d\d)",
    re.IGNORECASE | re.MULTILINE,
)
_BASE64 = re.compile(rb"\r?\n\r?\n((?:[A-Za-z0-9+/]{4,}+={0,2}\r?\n?)++)")


def plain(data: bytes) -> bytes:
    """Return text with its mails' bodies decoded: a mail, several (mbox), and parts of a mail.

    Numbers of lines in messages are those of the decoded text.
    """
    starts = [*_ENCODING.finditer(data)]
    at = [*(found.start() for found in starts), len(data)]
    parts = [data[: at[0]]]
    for found, end in zip(starts, at[1:], strict=True):
        section = data[found.start() : end]
        match (found[1] or b"").lower():
            case b"quoted-printable":
                section = quopri.decodestring(section)
            case b"base64":
                section = _unpacked(section)
        parts.append(section)
    return b"".join(parts)


def _unpacked(section: bytes) -> bytes:
    """Return a section with the base64 after its header decoded."""
    body = _BASE64.search(section)
    try:
        text = binascii.a2b_base64(body[1]) if body else b""
    except binascii.Error:
        return section
    return section[: body.start(1)] + text + b"\n" + section[body.end() :] if body else section
