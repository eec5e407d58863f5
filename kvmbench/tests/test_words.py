"""Plain words: phrases that we do not use, in the sources, the help, the errors and the pages.

Each pattern comes with the words to write instead.
"""

import re
from pathlib import Path

import pytest

import kvmbench

PACKAGE = Path(kvmbench.__file__).parent
ROOT = PACKAGE.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "setup.py")]
FILES = sorted(
    path
    for path in (
        *(
            p
            for p in PACKAGE.rglob("*")
            if p.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h", ".toml")
        ),
        *PAGES,
        *(p for name in ("docs", "ci", "examples") for p in (ROOT / name).rglob("*.*")),
    )
    if path.is_file()
    and path != Path(__file__)
    and path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h", ".toml", ".md", "")
    and "published" not in path.parts  # quoted as published
)

BANNED = {
    r"\b(cycles?|exits?|counts?|values?|runs?) an? (iteration|run|round|boot|exit)\b": "per",
    r"\b(runs?|units?|boots?|files?|values?|one|series) a side\b": "per side",
    r"\ban iteration\b(?= (as|of|in))": "per iteration",
    r"\b(told|taken|tells?|takes?|taking) apart\b": "split, distinguish",
    r"\banew\b": "again",
    r"\bbeside\b": "next to, with",
    r"\bbehind\b": "after, below",
    r"\bof (its|their|our|one's|her|his) own\b": "separate, own",
    r"\bwhoever\b": "a noun",
    r"\bnobody\b": "no task, no port",
    r"\b[Tt]here (is|are) none\b": "a verb with an actor",
    r"\b(is|are) said\b": "kvmbench says, reports, warns",
    r"\b(is|are) to be\b": "must",
    r"\blight (rows?|exits?)\b": "lightweight exit",
    r"\bReturn (all|what)\b": "Return the NOUN",
    r"\bSay (what|whether|how|where|why|in|if)\b": "Return whether, the NOUN",
    r"\bwould this host have lied\b": "A/A test",
    r"\bsets all up\b": "sets up",
    r"\bare all you bring\b": "requirements",
    r"\ball that\b": "every NOUN",
    r"\bKbMove\b": "KbTransition",
}


@pytest.mark.parametrize("pattern", BANNED)
def test_words(pattern):
    found = []
    for path in FILES:
        text = path.read_text(errors="replace")
        for match in re.finditer(pattern.replace(" ", r"[\s#]+"), text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {' '.join(match[0].split())!r}")
    assert found == [], f"write {BANNED[pattern]!r}"


def test_the_words_are_looked_for():
    assert len(FILES) > 60
    assert re.search(next(iter(BANNED)), "3 cycles an iteration")
