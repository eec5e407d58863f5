"""Names, paths and objects as the sides of a comparison, each with the label of its column.

`kvmbench.compare` and the commands `compare` and `self-test` use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from kvmbench import formats
from kvmbench.comparison.fleet import selected
from kvmbench.errors import ResultError, brief, listed, unknown_name
from kvmbench.report.figures import plural
from kvmbench.results import Result
from kvmbench.units import Side

__all__ = ["Source", "compared_sides", "load_sides"]

Source = Side | Result | str | Path


class _Found(NamedTuple):
    """A side without its label: the label that the user gave, or else the path to take it from."""

    label: str
    path: str
    side: Side


def load_sides(
    sources: Sequence[Source], load: Callable[[str], Result] = formats.load
) -> list[Side]:
    """Return the sides that `sources` name, `[LABEL=]FILE[#CONFIGURATION]` or objects.

    FILE#KEY=VALUE is the boots with that label, or with that fact of the host.

    `load` returns the result of a FILE. Raises ResultError for a result without figures, ValueError
    for an unknown configuration, and the errors of `load`.
    """
    if all(isinstance(source, Side) for source in sources):
        return [source for source in sources if isinstance(source, Side)]
    found = [_found(place, source, load) for place, source in enumerate(sources)]
    labels = next(labels for labels in _candidates(found) if len(set(labels)) == len(labels))
    return [
        Side(label, side.result, side.configuration)
        for label, (_, _, side) in zip(labels, found, strict=True)
    ]


def compared_sides(sources: Sequence[Source]) -> list[Side]:
    """Return the before and the afters that `sources` name; one with two configurations is both.

    Raises ValueError for a single source with another number of configurations, and as
    `load_sides`.
    """
    sides = load_sides(sources)
    if len(sides) > 1:
        return sides
    (side,) = sides
    if side.configuration is None and len(side.configurations) == 2:
        return [Side(name, side.result, name) for name in side.configurations]
    known = side.configurations
    names = f", FILE#NAME with one of {listed(map(brief, known))}" if len(known) > 1 else ""
    raise ValueError(
        f"{side.label} alone has {plural(len(known), 'configuration')}, and two are compared: name "
        f"a BEFORE and an AFTER{names}"
    )


def _found(place: int, source: Source, load: Callable[[str], Result]) -> _Found:
    if isinstance(source, Side):
        return _Found(source.label, source.label, source)
    if isinstance(source, Result):
        label = path = source.name or ("after" if place else "before")
        side = Side(label, source)
    else:
        argument = str(source)
        label, equals, path = argument.partition("=")
        if not equals or "/" in label or "#" in label or os.path.exists(_parted(argument)[0]):
            label, path = "", argument
        path, configuration = _parted(path)
        result = load(path)
        if configuration and "=" in configuration and configuration not in result.configurations():
            result = selected(result, configuration)
            label, configuration = label or configuration.partition("=")[2], None
        side = Side(label, result, configuration)
    known = side.result.configurations()
    if not known:
        raise ResultError(f"{path}: holds no figures")
    if side.configuration not in (None, *known):
        raise ValueError(f"{path}: {unknown_name('configuration', side.configuration, known)}")
    return _Found(label, "stdin" if path == "-" else path, side)


def _parted(argument: str) -> tuple[str, str | None]:
    """Return the FILE and the CONFIGURATION of FILE#CONFIGURATION: either may contain a #."""
    parts = argument.split("#")
    files = ["#".join(parts[:end]) for end in range(len(parts), 0, -1)]
    read = (file for file in files if os.path.isfile(file) or formats.is_many(file))
    file = next(read, parts[0])
    return file, argument[len(file) + 1 :] if len(file) < len(argument) else None


def _candidates(found: Sequence[_Found]) -> Iterator[list[str]]:
    """Yield the labels that the sides may have, the shortest first; the last ones differ."""
    stems = [label or _stem(path) for label, path, _ in found]
    configurations = [side.configuration or "" for _, _, side in found]
    if len(set(stems)) < len(stems) and all(configurations):
        yield configurations
    yield [
        label or "#".join(filter(None, (stem, configuration)))
        for (label, _, _), stem, configuration in zip(found, stems, configurations, strict=True)
    ]
    paths = [PurePath(path).parts for _, path, _ in found]
    own = [parts for (label, _, _), parts in zip(found, paths, strict=True) if not label]
    shortest = [
        label or next(_own_parts(parts, own), "")
        for (label, _, _), parts in zip(found, paths, strict=True)
    ]
    if all(shortest):
        yield shortest
    for depth in range(1, max(map(len, paths)) + 1):
        yield [
            label or "/".join(parts[-depth:])
            for (label, _, _), parts in zip(found, paths, strict=True)
        ]
    yield [f"{stem} {place}" for place, stem in enumerate(stems, 1)]


def _own_parts(parts: Sequence[str], paths: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the parts of a path that no other one of `paths` has in that place from the end."""
    for depth, part in enumerate(reversed(parts), 1):
        if sum(len(other) >= depth and other[-depth] == part for other in paths) == 1:
            yield part


def _stem(path: str) -> str:
    """Return a file's name without its ending; the .11 of 6.11 is not one.

    A pattern of files that is no name, such as `*.log`, has its folder before it.
    """
    name = PurePath(path)
    if path != "-" and not any(map(str.isalnum, name.stem)):
        return "/".join(name.parts[-2:])
    return name.stem if name.suffix[1:2].isalpha() else name.name
