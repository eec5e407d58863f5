"""Figures as text, for the tables of every subject."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

__all__ = ["count", "figure", "plural", "share", "share_range", "signed", "some"]

NAMED = 10  # names, in a sentence

Number = int | float


def count(value: Number | None) -> str:
    """Return a figure without an exponent: an integer whole, a float to 0.1, None as `-`."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def signed(value: Number | None) -> str:
    """Return a change with its sign; 0, and a change that rounds to 0, has no sign."""
    words = count(value)
    if value is None or not words.strip("-0."):
        return words.removeprefix("-") if value is not None else words
    return f"+{words}" if value > 0 else words


def figure(value: Number) -> str:
    """Return a figure for people: whole where it is whole, else to four digits or more."""
    if value == int(value):
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def share(percent: float) -> str:
    """Return a percentage, 0 or more, to two digits, and without an exponent where it is large."""
    return f"{percent:.2g}" if percent < 99.5 else f"{percent:.0f}"


def share_range(shares: Sequence[tuple[float, str]]) -> str:
    """Return the first and the last of sorted shares in percent, each with its row."""
    (low, first), (high, last) = shares[0], shares[-1]
    words = f"{share(100 * low)} %"
    return words if len(shares) == 1 else f"{words} ({first}) to {share(100 * high)} % ({last})"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural but for 1."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def some(names: Collection[str]) -> str:
    """Return names for a sentence, separated by commas; of many, the first three and a count."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(islice(names, 3))} and {len(names) - 3:,} more"
