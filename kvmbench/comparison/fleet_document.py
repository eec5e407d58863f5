"""A collected result as a document: its hosts, their facts and how much each measured."""

from __future__ import annotations

from kvmbench.labels import label_of
from kvmbench.report import Block, Column, Document, Note, Record, Table
from kvmbench.report.figures import plural
from kvmbench.results import Boot, Result, builtins

__all__ = ["document"]

SAID = {"cpu": "CPU models", "clock": "TSC frequencies", "mitigations": "sets of mitigations"}


def document(result: Result) -> Document:
    """Return the hosts of a result as a table; its JSON is the result itself."""
    hosts: dict[str, list[Boot]] = {}
    for boot in result.boots:
        hosts.setdefault(label_of(boot, "host"), []).append(boot)
    records = [_record(host, boots) for host, boots in hosts.items()]
    columns = [
        Column("host", "key"), Column("CPU", "word"), Column("TSC"), Column("kernels", "word"),
        Column("results"), Column("boots"), Column("runs"),
    ]  # fmt: skip
    lines = [[str(value or "-") for value in list(record.values())[:7]] for record in records]
    blocks: list[Block] = [Table(columns, lines), *map(Note, _notes(result))]
    named = len(hosts.keys() - {""})
    title = f"{plural(len(result.boots), 'boot')} of {plural(named, 'host')}"
    return Document(title, blocks, records, builtins(result, records))


def _record(host: str, boots: list[Boot]) -> Record:
    def distinct(what: str) -> str:
        return ", ".join(dict.fromkeys(filter(None, (label_of(boot, what) for boot in boots))))

    return {
        "host": host, "cpu": distinct("cpu"), "clock": distinct("clock"),
        "kernel": distinct("kernel"), "results": len({label_of(boot, "result") for boot in boots}),
        "boots": len(boots), "runs": sum(len(boot.runs) for boot in boots),
        "commits": len({label_of(boot, "commit") for boot in boots} - {""}),
        "mitigations": distinct("mitigations"),
    }  # fmt: skip


def _notes(result: Result) -> list[str]:
    notes = []
    for what, words in SAID.items():
        known = dict.fromkeys(filter(None, (label_of(boot, what) for boot in result.boots)))
        if len(known) > 1:
            notes.append(
                f"{len(known)} {words}: a comparison can pair the hosts (--pair-by host) or split "
                f"the rows (--group-by {what})."
            )
    if any(not label_of(boot, "host") for boot in result.boots):
        notes.append("Boots without a host: --label host=NAME or --labels-from gives them one.")
    return notes
