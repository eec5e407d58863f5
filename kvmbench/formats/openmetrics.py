"""OpenMetrics text (version 1.0, prometheus.io/docs/specs/om): gauges with their times.

Written only, by `kvmbench history`. `promtool tsdb create-blocks-from openmetrics` imports it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Family", "Sample", "document"]


class Sample(NamedTuple):
    """One figure; `time` in seconds since 1970."""

    labels: Mapping[str, str]
    value: int | float
    time: float


class Family(NamedTuple):
    """A gauge with its samples; `name` is of [a-z_]."""

    name: str
    help: str
    samples: Sequence[Sample]


def document(families: Sequence[Family]) -> str:
    """Return the text of `families`.

    The samples of one set of labels stand together, in the order of time, as the format demands; of
    several with the same time, the last one is written.
    """
    lines = []
    for family in families:
        lines += [
            f"# TYPE {family.name} gauge",
            f"# HELP {family.name} {_escaped(family.help)}",
        ]
        series: dict[tuple[tuple[str, str], ...], dict[float, int | float]] = {}
        for sample in family.samples:
            series.setdefault(tuple(sample.labels.items()), {})[sample.time] = sample.value
        for labels, values in series.items():
            shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
            lines += [
                f"{family.name}{{{shown}}} {_number(value)} {_number(time)}"
                for time, value in sorted(values.items())
            ]
    return "\n".join([*lines, "# EOF", ""])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: int | float) -> str:
    """Return a number that reads back as the same one."""
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < 2**53:
        return str(int(value))
    return repr(value)
