"""Figures and tables as people post them: units, remarks, columns and their labels.

formats.kut reads with them. A label is words such as `before (ns)`, `% change` or `Times in us`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Figure", "Table", "above", "columns", "is_head", "is_row", "split", "unit_of"]

_WORDS = {
    "cycles": "cycles?|cyc|clocks?|ticks?",
    "ns": "ns|nsecs?|nanosec(?:ond)?s?",
    "us": "[uµμ]s|usecs?|microsec(?:ond)?s?",
    "ms": "ms|msecs?|millisec(?:ond)?s?",
    "seconds": "s|secs?|seconds?",
}
# Per iteration, call and so on, but not per time, which makes a rate.
_PER = r"(?:(?:/|\s+per\s+)(?!(?:[mnuµμ]?s(?:ec\w*)?|min\w*)\b)\w+)?(?![\w%/])"

_UNIT = rf"(?:{'|'.join(_WORDS.values())}){_PER}"
_UNITS = {unit: re.compile(f"(?:{words}){_PER}", re.I) for unit, words in _WORDS.items()}
# `(ns)`, `in ns`, `unit: ns`, or the last word; `s` stands for seconds between brackets only.
_UNIT_IN = re.compile(
    rf"(?:(?<!\w)|(?!.s[)\]]))[(\[]\s*(?:in\s+)?(?P<enclosed>{_UNIT})\s*[)\]]"
    rf"|(?<!\w)(?:in|units?\s*[:=])\s+(?!s\s)(?P<named>{_UNIT})"
    rf"|(?:^|(?<![\d.])[\s,](?!s\b))(?P<last>{_UNIT})[:.]?$|\b(?P<any>cycles?)\b(?!\s*(?:/|per\b))",
    re.I,
)
_UNIT_LINE = re.compile(rf"(?:[\s|()\[\]]*{_UNIT})+[\s|()\[\]]*", re.I)
_CELL = re.compile(
    r"\s*(?:[|;/]|,(?=\s)|(?P<arrow>-+>|=+>|→|\bto\b|\bvs\.?))?\s*(?:"
    r"(?P<remark>\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\]|(?:±|\+/?-)\s*[\d.,]*\d(?:\s?%)?)"
    rf"(?:\s*(?P<of>{_UNIT}))?"
    r"|(?P<figure>(?:(?<!\d)[-+])?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,6})?)"
    rf"(?:\s?(?P<percent>%)|\s*(?P<unit>{_UNIT})|(?![\w.%])))\s*"
)
# The first column of a header that names the tests, and the first of two configurations.
_TESTS = re.compile(
    r"\b(?:names?|tests?|bench\w*|rows?|workloads?|(?:vm-?)?exits?|reasons?|op(?:eration)?s?|types?"
    r"|instructions?|config\w*|cases?)\b|^$",
    re.I,
)
_FIRST = re.compile("before|old|base(?:line)?", re.I)
_BOTH = re.compile(r"\bbefore\b.*\bafter\b", re.I)
# What the columns may be one each of, so that their labels are numbers.
_AXIS = re.compile(
    r"(?:kernels?|linux|versions?|releases?|v?cpus?|threads|guests?|vms|hosts?|sizes?|bytes|levels?"
    r"|runs?|rounds?|boots?|years?)",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"cyc\w*\s*(?:/|per)\s*s(?:ec\w*)?\b|(?:/|\bper\s)\s*s(?:ec\w*)?\b|\b[kmg]cyc|[x×*]\s?10{3}"  # noqa: RUF001
    r"|\bin (?:thousands|millions)\b|\b(?:higher|more) is better",
    re.I,
)
# Headings: the unit at the end of one, and those whose rows are no costs. One with a figure in it,
# or with a word for a cost, is prose about the rows.
_UNIT_AT_END = re.compile(
    rf"(?:tests?|names?)\s+(?P<column>{_UNIT})"
    rf"|\D*?(?:[(\[](?:[^\d()]*,)?\s*(?:in\s+)?(?P<enclosed>{_UNIT})\s*[)\]]"
    rf"|\b(?:in|units?\s*[:=])\s+(?P<named>{_UNIT}))"
    r"(?:[,;]?\s*\(?(?:lower|less|smaller) is better\)?)?[.:]?",
    re.I,
)
_COUNTS = re.compile(
    r"(?:\w+\W+){0,3}(?<!cpu )(?<!iteration )(?<!loop )"
    r"(?:counts?|histogram|occurrences|distribution)"
    r"|(?:\w+\W+){0,2}exit[ -]reasons?(?:\W+\w+){0,2}|reasons?|(?:the )?number of (?:vm[- ]?)?exits"
    r"|(?:\w+\W+){0,3}exits by reason"
    r"|(?:exit )?rates?|throughput|percent(?:age)?s?(?: of .*)?",
    re.I,
)
_RATES = re.compile(
    r"(?:.*\s)?(?:(?:vm-?)?exits?|cyc\w*|calls?|iterations?)\s*(?:/|per)\s*s(?:ec\w*)?"
    r"|.*\bin (?:thousands|millions)|.*\b(?:higher|more) is better\W*",
    re.I,
)
_COST = re.compile(r"\d|\b(?:costs?|cycles|latenc\w+|times?)\b", re.I)
_QUOTIENT = r"diff(?:erence)?s?|deltas?|Δ|ratio|speed-?up|%"
_CHANGE = (
    rf"{_QUOTIENT}|changes?|shift|gain|slow-?down|improvements?|saved|savings?|reduction|relative"
    r"|norm(?:ali[sz]ed)?"
    r"|\w{2,}\s+[-/−]\s+(?:before|old|base\w*)|(?:after|new|patched)[-/−](?:before|old|base\w*)"  # noqa: RUF001
    r"|\w*\s*\bvs\b.*"
)
_OPERATOR = re.compile(r"\s*[/:÷−]\s*|\s+-\s+")  # noqa: RUF001
_FILL = r"(?:\W|rel\w*+|abs\w*+|in\b|percent\w*+|cycles\b|[nu]s\b)*"
_CHANGES = re.compile(rf"{_FILL}(?:{_CHANGE}){_FILL}|.*%.*", re.I)
_QUOTIENTS = re.compile(rf"{_FILL}(?:{_QUOTIENT}){_FILL}", re.I)
_SPREAD = re.compile(
    rf"{_FILL}(?:\w+\s+)?(?:sd|std|std-?dev|stdev|(?:std\.? )?dev(?:iation|\.)|std\.?err\w*"
    rf"|(?:std\.? )?err(?:or)?|var|variance|cv|rsd|mad|iqr|spread){_FILL}|.*[±σ].*"  # noqa: RUF001
    r"|p[-_ ]?val(?:ue)?s?",
    re.I,
)
_NUMBER = re.compile(
    r"(?:\w+\s+)?(?:counts?|samples|hits|number)|number of .*|total(?: \w+s)?|n|#|runs"
    r"|iterations|iters|loops|operations|ops|rounds|outliers|calls|events|exits|ipis|ipc"
    r"|instructions|insns?|freq\w*|shares?|throughput",
    re.I,
)
_GENERAL = re.compile(
    r"(?:\W|cycles?|values?|results?|figures?|times?|avg|average|mean|median|latency|costs?|tsc|per"
    r"|iter(?:ation)?s?)*",
    re.I,
)


@dataclass(slots=True)
class Figure:
    """A figure as it was read, with the words that belong to it."""

    text: str
    unit: str = ""  # empty where no word gives it
    cost: bool = True  # and no percentage, nor a difference with its plus sign
    arrow: bool = False  # stands before it
    marks: list[str] = field(default_factory=list)
    configuration: str = ""


@dataclass(slots=True)
class Table:
    """The header of a table: a line that may name the columns of the rows below it."""

    header: str = ""
    units: list[str] = field(default_factory=list)  # in a line below the header
    near: bool = True  # no empty line came since
    fits: bool = False  # a row has had the header's columns
    left_out: list[str] = field(default_factory=list)  # labels of columns that hold no costs
    head: str = ""  # the label of the column of the tests' names, where there is one

    def add_units(self, line: str) -> bool:
        """Take a line of units below the header; return whether it is one."""
        if self.near and (found := _UNIT_LINE.fullmatch(line)):
            self.units = re.sub(r"[|()\[\]]", " ", found[0]).split()
        return self.near and bool(found)

    def costs(self, columns: list[list[Figure]], by: str, log: bool) -> list[Figure] | None:
        """Return the costs of a row, with configuration and unit of their columns.

        `by` parts the columns. In a `log`, rows of one figure belong to no table. None where the
        figures do not fit the header, or are several without one; empty where no column holds
        costs.
        """
        labelled = self._labelled(columns, by, log)
        if labelled is None:
            return None
        if not labelled[0][0]:
            figure, units = labelled[0][1], {unit_of(unit) for unit in self.units}
            if len(units) > 1:
                return None
            figure.unit = figure.unit or "".join(units)
            return [figure]
        found, every = [], split(self.head)[1]
        names = [split(label)[0] for label, _ in labelled]
        for label, figure in labelled:
            words, unit = split(label)
            quotient = _OPERATOR.split(label)
            if not _holds_costs(label) or (len(quotient) == 2 and {*quotient} <= {*names}):
                self.left_out.append(label)
            elif figure.cost:
                figure.configuration = words if words and names.count(words) == 1 else label
                figure.unit = figure.unit or unit or every
                found.append(figure)
        if len(found) == 1 and _GENERAL.fullmatch(split(found[0].configuration)[0]):
            found[0].configuration = ""
        return found if any(figure.unit for figure in found) or not self._reasons() else []

    def _reasons(self) -> bool:
        return bool(re.match(r"\W*(?:\w+[ -])?reasons?\b", self.header, re.I))

    def _labelled(
        self, columns: list[list[Figure]], by: str, log: bool
    ) -> list[tuple[str, Figure]] | None:
        """Return figures with their columns' labels, which are empty where no header has them."""
        every = [figure for found in columns for figure in found]
        costs = [figure for figure in every if figure.cost]
        single = [("", costs[0])] if len(costs) == 1 else None
        if not self.header:
            return single
        if by and by in self.header:
            self.head, *labels = self._labels(re.escape(by))
            open_ended = self.header.startswith("|") and not self.header.endswith("|")
            if open_ended and len(columns) == len(labels) + 1:  # the names' column has no label
                self.head, labels = "", [self.head, *labels]
            fits = len(columns) <= len(labels) if by == "|" else len(columns) == len(labels)
            filled = [pair for pair in zip(labels, columns, strict=False) if pair[1]]
            if fits and all(label and len(found) == 1 for label, found in filled):
                return [(label, found[0]) for label, found in filled]
        if "|" in self.header:
            return None if by == "|" else single
        wide, narrow = self._labels(r"\t+|\s{2,}"), self._labels(r"\s+")
        head = wide[0] if len(wide) > 1 else narrow[0]
        tests, first = bool(_TESTS.search(head)), bool(_FIRST.fullmatch(head))
        clear = tests or first
        table = not log and (
            self.fits or (clear and (len(wide) > 1 or bool(_BOTH.search(self.header))))
        )
        for labels in (wide, narrow):
            if (single and not table) or not (clear or (labels is wide and len(wide) > 1)):
                continue
            for found in (every, costs):
                if len(labels) - len(found) in ({0} if first else {1} if tests else {0, 1}):
                    self.fits, self.head = True, labels[0] if len(labels) > len(found) else ""
                    return list(zip(labels[-len(found) :], found, strict=True))
        return None if table and self.near else single

    def _labels(self, between: str) -> list[str]:
        """Return the labels of the columns, each with the unit in the line below the header."""
        header = self.header.lstrip("# ").removeprefix("|").removesuffix("|").strip(" \t")
        labels = [label.strip("*`# \t") for label in re.split(between, header)]
        units = self.units * (len(labels) if len(self.units) == 1 else 1)
        for n in range(1, min(len(units), len(labels)) + 1):
            labels[-n] += f" ({units[-n]})"
        return labels


def columns(text: str, by: str) -> list[list[Figure]]:
    """Return the figures in each column after a row's name; no column where other text has digits.

    `by` parts the columns, or is empty; then the text holds figures, units and remarks only.
    """
    cells = text.rstrip(" ").removesuffix("|").split(by) if by else [text.rstrip(" \t|*`;")]
    found = [[] if by and not re.search(r"\d", cell) else _figures(cell) for cell in cells]
    return [] if None in found else [cell for cell in found if cell is not None]


def _figures(text: str) -> list[Figure] | None:
    """Return the figures of a text that holds nothing else but their units and remarks, or None."""
    found: list[Figure] = []
    at, text = 0, text.strip(" \t*`")
    while at < len(text):
        cell = _CELL.match(text, at)
        if not cell or not (cell["figure"] or found):
            return None
        at = cell.end()
        if figure := cell["figure"]:
            cost = not (cell["percent"] or figure.startswith("+"))
            unit = unit_of(cell["unit"] or "")
            found.append(Figure(figure.replace(",", ""), unit, cost, bool(cell["arrow"])))
            continue
        remark = cell["remark"].strip()
        if percent := re.fullmatch(r"\(\s*(\d+(?:\.\d+)?)\s?%\s*\)", remark):
            found.append(Figure(percent[1], cost=False))
            continue
        unit = split(remark)[1]
        found[-1].unit = found[-1].unit or unit or unit_of(cell["of"] or "")
        if not unit and "%" not in remark:
            found[-1].marks.append(re.sub(r"^\((.*)\)$", r"\1", remark))
    return found


def unit_of(words: str) -> str:
    """Return the unit that words mean, empty for other words."""
    return words and next((unit for unit, known in _UNITS.items() if known.fullmatch(words)), "")


def split(label: str) -> tuple[str, str]:
    """Return a label without the unit in it, and the unit, empty where it has none."""
    if not (found := _UNIT_IN.search(label)):
        return label, ""
    if found["any"]:
        return label, "cycles"
    words = label[: found.start()] + label[found.end() :]
    return " ".join(words.strip(" ,:").split()), unit_of(found[found.lastgroup or 0])


def is_head(word: str) -> bool:
    """Return whether a word is the first of a header: it says what the rows or the columns are."""
    return bool(_TESTS.fullmatch(word) or _AXIS.fullmatch(word))


def is_row(line: str) -> bool:
    """Return whether a line is a name with figures, and no header such as `kernel 6.11 6.12`."""
    name, *cells = re.split(r"[\s|*`]+", line.strip("|*` \t"))
    named = re.fullmatch(r"[A-Za-z]\w*[:=]?", name) and not (
        is_head(name) or _FIRST.fullmatch(name) or _GENERAL.fullmatch(name)
    )
    return bool(named and cells) and all(re.fullmatch(r"-?\d[\d.,]*", cell) for cell in cells)


def _holds_costs(label: str) -> bool:
    """Return whether a column of this label can hold costs: no differences, spreads, or counts."""
    return not (
        _RATE.search(label)
        or _CHANGES.fullmatch(label)
        or _SPREAD.fullmatch(label)
        or _NUMBER.fullmatch(label)
    )


def above(heading: str) -> str | None:
    """Return the unit of the rows below a heading, empty if it gives none; None for no costs."""
    if _RATES.fullmatch(heading) or _QUOTIENTS.fullmatch(heading):
        return None
    if found := _UNIT_AT_END.fullmatch(heading):
        word = found[found.lastgroup or 0]
        return unit_of(word) if word.islower() or len(word) > 3 else ""  # the US is a country
    if re.search(r"\bcycles?\b(?!\s*(?:/|per\b))", heading, re.I):
        return "cycles"
    counts = re.sub(r"\s+(?:during|over|while|within|(?:in|for) \d).*", "", heading, flags=re.I)
    return None if _COUNTS.fullmatch(counts) and not _COST.search(counts) else ""
