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
        "tests": len(cases),
        "failures": sum(case.failure is not None for case in cases),
        "errors": 0,
        "skipped": sum(case.skipped is not None for case in cases),
    }
    top = ElementTree.Element("testsuites")
    top.attrib.update({key: str(count) for key, count in counts.items()})
    suite = _element(top, "testsuite", name=name, **counts)
    for case in cases:
        element = _element(suite, "testcase", classname=case.classname, name=case.name)
        if case.properties:
            properties = _element(element, "properties")
            for key, value in case.properties.items():
                _element(properties, "property", name=key, value=value)
        if case.failure is not None:
            failure = _element(element, "failure", type=case.kind, message=case.failure)
            failure.text = failure.get("message")
        if case.skipped is not None:
            _element(element, "skipped", message=case.skipped)
    ElementTree.indent(top)
    written: bytes = ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _element(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    words = {
        key: _NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))
        for key, value in attributes.items()
    }
    return ElementTree.SubElement(parent, tag, words)


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
