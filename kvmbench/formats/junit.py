"""JUnit XML: one test case per row, its figures as properties; skipped workloads are skipped.

Plain results fail nothing. A comparison writes its regressions with `document`. Lost: the runs;
a case has their median, lowest and highest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from kvmbench.formats.rows import rows
from kvmbench.results import Result

__all__ = ["Case", "document", "encode"]

# Characters that XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A test case; `failure` and `skipped` are messages, None where it passed."""

    name: str
    classname: str
    properties: Mapping[str, object] = field(default_factory=dict)
    failure: str | None = None
    skipped: str | None = None
    kind: str = "regression"  # the failure's type


def document(name: str, cases: Iterable[Case]) -> bytes:
    """Return a document of one suite, UTF-8."""
    cases = list(cases)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.failure is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.skipped is not None for case in cases)),
    }
    top = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(top, "testsuite", {"name": _text(name), **counts})
    for case in cases:
        names = {"classname": _text(case.classname), "name": _text(case.name)}
        element = ElementTree.SubElement(suite, "testcase", names)
        if case.properties:
            properties = ElementTree.SubElement(element, "properties")
            for key, value in case.properties.items():
                entry = {"name": _text(key), "value": _text(str(value))}
                ElementTree.SubElement(properties, "property", entry)
        if case.failure is not None:
            failed = {"type": case.kind, "message": _text(case.failure)}
            ElementTree.SubElement(element, "failure", failed).text = _text(case.failure)
        if case.skipped is not None:
            ElementTree.SubElement(element, "skipped", {"message": _text(case.skipped)})
    ElementTree.indent(top)
    written: bytes = ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def encode(result: Result) -> bytes:
    """Return the result's rows as test cases that pass, and its skipped workloads."""
    suite = result.name or "kvmbench"
    cases = []
    for row in rows(result):
        medians = row.medians
        properties = {
            "unit": row.first.unit,
            "kind": row.first.kind,
            "better": row.first.better,
            "runs": len(medians),
            "median": row.centre,
            "lowest": min(medians),
            "highest": max(medians),
        }
        classname = ".".join(filter(None, (suite, row.first.configuration)))
        cases.append(Case(name=row.first.workload, classname=classname, properties=properties))
    skipped = {name: why for _, run in result.runs() for name, why in run.skipped.items()}
    measured = set(result.workloads())
    cases += [
        Case(name=name, classname=suite, skipped=why)
        for name, why in skipped.items()
        if name not in measured
    ]
    return document(suite, cases)


def _text(words: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", words)
