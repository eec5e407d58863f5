"""`--until decided`: the options, and the look at the rows after each pair.

`plan run`, `measure` and `lab run` end by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from kvmbench.cli.common import Whole
from kvmbench.cli.options import together

if TYPE_CHECKING:
    from kvmbench.comparison.verdicts import Comparison
    from kvmbench.report import Document
    from kvmbench.results import Result
    from kvmbench.units import Side

MOST = 64  # pairs at most, where the user chose no other number

until_options = together(
    click.option(
        "--until", type=click.Choice(["decided"]),
        help="Look after each pair, and end where every row is decided.",
    ),
    click.option(
        "--rows", multiple=True, metavar="PATTERN",
        help="Rows that must be decided, may be repeated; the correction counts all.",
    ),
    click.option("--max", type=Whole(2, 1000), metavar="N", help="Pairs at most."),
    click.option(
        "--margin", type=click.UNPROCESSED, metavar="SHARE|NUMBER",
        help="Largest shift that does not matter, as for `kvmbench compare`.",
    ),
)  # fmt: skip
"""When to end a measurement that is looked at after each pair; `check_until` checks them."""


def check_until(
    until: str | None, rows: tuple[str, ...], most: int | None, margin: str | None
) -> None:
    """Refuse options that only --until decided takes, and a margin that is none."""
    from kvmbench.comparison.rows import Margin

    given = {"--rows": rows, "--max": most, "--margin": margin}
    for name, value in given.items():
        if value and until is None:
            raise click.UsageError(f"{name} needs --until decided")
    if margin is not None:
        try:
            Margin.parse(margin)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--margin") from None


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the rows of a result, against `before` or between its configurations.

    The first configuration is compared with each other one. Calls return whether every row that
    must be decided is.
    """

    rows: Sequence[str] = ()  # patterns; by default every row
    margin: str | None = None
    before: Side | None = None
    _wrong: list[str] = field(default_factory=list, init=False)  # with its rows

    def check(self) -> None:
        """Raise the usage error of rows that the looks did not find."""
        if self._wrong:
            raise click.UsageError(self._wrong[0])

    def compared(self, result: Result) -> list[Comparison]:
        """Return the comparisons of the result so far, by the confidence sequence."""
        from msgspec import structs

        from kvmbench.comparison.verdicts import compare
        from kvmbench.units import Side

        result = structs.replace(result, notes=[])  # the measurement's table has them
        if self.before is not None:
            before = structs.replace(self.before.result, notes=[])
            sides = [replace(self.before, result=before), Side("now", result)]
        else:
            sides = [Side(name, result, name) for name in result.configurations()]
        return [
            compare(
                sides[0],
                side,
                correction="sequence",
                margin=self.margin,
                comparisons=len(sides) - 1,
            )
            for side in sides[1:]
        ]

    def __call__(self, result: Result) -> bool:
        from kvmbench.comparison.sequence import undecided
        from kvmbench.errors import IncompatibleError

        try:
            found = self.compared(result)
            return bool(found) and not any(undecided(one.rows, self.rows) for one in found)
        except IncompatibleError:
            return False  # so far, as where one configuration has no figure
        except ValueError as error:
            self._wrong.append(str(error))
            return True  # `check` raises it once the runs are kept

    def added(self, found: Document, result: Result) -> Document:
        """Return the document of a measurement with the comparisons after its blocks."""
        from kvmbench.comparison.document import document
        from kvmbench.errors import IncompatibleError
        from kvmbench.report import Heading

        try:
            comparisons = self.compared(result)
        except IncompatibleError:
            return found
        if not comparisons:
            return found
        compared = document(comparisons)
        blocks = [*found.blocks, Heading(compared.title), *compared.blocks]
        return replace(found, blocks=blocks)
