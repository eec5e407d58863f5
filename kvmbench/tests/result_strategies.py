"""Results for hypothesis: `results()` draws one that may be written."""

from hypothesis import strategies as st

from kvmbench.results import Boot, Host, Result, Run, Series

WORDS = st.text(max_size=8) | st.sampled_from(["", "a/b", "w/o IPIv", "x-8", "50%", "Ä", "a|b"])
NAMES = WORDS.filter(bool)
FIGURES = st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12)


@st.composite
def results(
    draw,
    names=NAMES,
    configurations=WORDS,
    units=NAMES,
    figures=FIGURES,
    better=("lower", "higher"),
    unit_decides=False,
):
    """Draw a result; with `unit_decides` all rows of one unit agree in kind and direction."""
    rows = {}
    decided = {}
    for _ in range(draw(st.integers(1, 4))):
        unit = draw(units)
        kind, direction = draw(st.sampled_from(["exact", "noisy"])), draw(st.sampled_from(better))
        if unit_decides:
            kind, direction = decided.setdefault(unit, (kind, direction))
        rows[draw(names), draw(configurations)] = (unit, kind, direction)
    boots = []
    for _ in range(draw(st.integers(1, 3))):
        runs = []
        for _ in range(draw(st.integers(1, 3))):
            chosen = draw(st.lists(st.sampled_from(list(rows)), unique=True, min_size=1))
            series = [
                Series(
                    workload=key[0],
                    configuration=key[1],
                    unit=rows[key][0],
                    kind=rows[key][1],
                    better=rows[key][2],
                    values=draw(st.lists(figures, min_size=1, max_size=4)),
                    quantum=draw(st.none() | st.floats(0, 10)),
                    marks=draw(st.lists(WORDS, max_size=1)),
                )
                for key in chosen
            ]
            runs.append(Run(series=series, skipped=draw(st.dictionaries(NAMES, WORDS, max_size=1))))
        host = Host(kernel=draw(st.none() | WORDS), facts=draw(st.dictionaries(NAMES, WORDS)))
        block = draw(st.none() | st.integers(0, 9))
        boots.append(Boot(id=draw(WORDS), block=block, host=host, runs=runs))
    order = draw(st.sampled_from(["time", "lost"]))
    return Result(name=draw(WORDS), source=draw(WORDS), order=order, boots=boots)
