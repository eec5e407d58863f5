"""Pages in a headless Chromium: silent, closed, readable in light, dark and print, by keys too.

Screenshots of each kind go to $KVMBENCH_SCREENSHOTS, or to build/screenshots of the source tree.
"""

import base64
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvmbench
from kvmbench.cli.main import main
from kvmbench.report import Cell, Column, Document, Facts, Heading, Items, Note, Table, write
from kvmbench.report.html import fragment
from kvmbench.report.plots import (
    Axis,
    Bar,
    Bars,
    Curve,
    Curves,
    Dot,
    Dots,
    Group,
    HeatMap,
    Level,
    Marks,
    Panel,
    Place,
    Point,
)
from kvmbench.report.style import DARK, LIGHT
from kvmbench.report.svg import drawn, standalone
from kvmbench.tests import browser, pages
from kvmbench.tests.browser import needs_chromium
from kvmbench.tests.command import invoke
from kvmbench.tests.test_cli_hostile import RAW

ROOT = Path(kvmbench.__file__).parent.parent
CONTRAST = 4.5  # of text, WCAG 2.2, 1.4.3; of marks 3, 1.4.11
KINDS = (
    *("run", "measure", "measure-ioperm", "compare", "compare-30-rows", "compare-blocks"),
    *("compare-three", "self-test", "scenario", "scenario-vary", "check", "history"),
    *("trace-show", "trace-run", "lab", "plots"),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page of each kind in a file."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, document in pages.documents().items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(write(document, "html"))
    assert set(found) == set(KINDS)
    return found


@pytest.fixture(scope="module")
def chromium():
    opened = browser.Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def screenshots():
    """The folder of the screenshots."""
    default = ROOT / "build" if (ROOT / "setup.py").exists() else Path(tempfile.mkdtemp())
    folder = Path(os.environ.get("KVMBENCH_SCREENSHOTS") or default / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Without a browser

ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "ul", "li", "dl"),
    *("dt", "dd", "pre", "b", "small", "a", "figure", "figcaption", "div", "table", "thead"),
    *("tbody", "tr", "th", "td", "details", "summary", "footer", "svg", "g", "path", "rect"),
    *("circle", "text", "tspan", "pattern"),
}
ATTRIBUTES = {
    *("class", "id", "role", "tabindex", "scope", "href", "lang", "charset", "name", "content"),
    *("http-equiv", "aria-label", "aria-labelledby", "viewbox", "width", "height", "x", "y"),
    *("cx", "cy", "r", "d", "dx", "fill", "fill-opacity", "text-anchor", "transform"),
    "patternunits",
}


class Checked(HTMLParser):
    """The elements and texts of a page; it fails at one that no page of ours has."""

    def __init__(self, page):
        super().__init__()
        self.counts, self.texts, self._open = {}, [], []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        assert tag in ELEMENTS, tag
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attributes:
            assert name in ATTRIBUTES, (tag, name)
            if name == "href":
                assert re.fullmatch(r"#note\d+", value)
            if name == "fill":
                assert re.fullmatch(r"url\(#p\d+h\d\)", value)
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


class Notebook(Checked):
    """The same of a fragment: its only attributes are those of images."""

    def handle_starttag(self, tag, attributes):
        assert [name for name, _ in attributes] == (["alt", "src"] if tag == "img" else [])
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag != "img":
            self._open.append(tag)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_closed_and_well_formed(files, kind):
    page = files[kind].read_text()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    Checked(page)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert page.count("<svg") >= (0 if kind == "check" else 1)
    ids = re.findall(r' id="?([\w-]+)', page)
    assert len(ids) == len(set(ids))
    named = re.findall(r'aria-labelledby="?(\w+)', page) + re.findall(r'href="#(\w+)', page)
    assert set(named) <= set(ids)
    assert page.count("<figure") == page.count("<details") == page.count("<summary")


def forms(command, context, name=""):
    """Yield the name and the choices of --format of each command that prints a document."""
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            yield from forms(command.get_command(context, sub), context, f"{name} {sub}")
    for option in command.params:
        if option.name == "format":
            yield name.strip(), option.type.choices


def test_every_command_writes_pages(folder):
    found = dict(forms(main, click.Context(main)))
    wanted = {"run", "measure", "compare", "self-test", "scenario", "check", "history", "show"}
    assert set(found) >= wanted | {"trace show", "trace run", "lab run"}
    assert [name for name, choices in found.items() if "html" not in choices] == []
    assert invoke("run", "cpuid", "-o", "x.html").stdout == ""
    assert (folder / "x.html").read_text() == invoke("run", "cpuid", "--format", "html").stdout


def test_thirty_rows_of_eight_runs_are_below_100_kb(files):
    size = files["compare-30-rows"].stat().st_size
    assert size < 100_000
    # Two sides of 8 runs of 30 rows, each a mark without length.
    assert len(re.findall(r"M[\d.]+ [\d.]+h0", files["compare-30-rows"].read_text())) >= 480


def test_the_counterexample_shows_the_cells_that_changed(files):
    page = files["check"].read_text()
    # docs/check.md, the first version of the patch: the last events mark the limit stale.
    (line,) = re.findall(r"<tr>.*mark_stale.*</tr>", page)
    changed = re.findall(r'<td class="f mark">(.*?)</td>', line)
    assert changed == ["1 -&gt; 0", "full -&gt; min", "0 -&gt; 1"]


def test_a_doubt_is_spelled_out_where_its_verdict_is(files):
    page = files["compare"].read_text()
    number = re.search(r'faster\? <small><a href="#(note\d+)">one-boot</a>', page)[1]
    assert f'<p id="{number}"><b>one-boot</b>: Each side is one boot.' in page


LONG = "x" * 3000
HOSTILE = {
    "tag": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "end of an element": '</title></style></svg></table></main><iframe src="https://example.com">',
    "quotes": "\"' onmouseover='alert(1)' x=\"",
    "entity": "&lt;b&gt;&#x3c;i&#x3e;&amp;",
    "comment": "--><!-- ]]> <![CDATA[ <?php",
    "bidi": "\u202egnp.\u2066exe\u200f\u061c",
    "control": "\x00\x07\x1b[2J\x9b31m\x7f\r\n\t",
    "formula": '=HYPERLINK("https://example.com")',
    "style": "}body{background:url(https://example.com)}</style>",
    "very long": LONG,
    "wide": "\u4e2d\U0001f600e\u0301\u0e33" * 40,
    "surrogate": "\udc80\ufffe\U000e0041\u2028",
    "right to left": "\u05e9\u05dc\u05d5\u05dd (1) \u0645\u0631",
}


def everywhere(name):
    """Return a document that has `name` wherever a stranger's words can stand."""
    axis = Axis(name, name)
    panels = [Panel(name, name, [1, 2, None], [Level(0, 1, 1.5, name)], 0.1, name, "bad")]
    columns = (Column(name, "key", name), Column(name), Column(name, "word"))
    row = (name, name, Cell(name, "bad", (name, "unknown")))
    return Document(
        name,
        [
            Table(columns, [row] * 2), Heading(name), Note(name), Note(name, name), Items([name]),
            Facts([(name, name)]),
            Bars(title=name, about=name, axis=axis, parts=[name, "b"],
                 bars=[Bar(name, name, [1, 2])]),
            Dots(title=name, about=name, axis=axis, start=name, end=name,
                 dots=[Dot(name, 1.0, (0.5, 2), 0, 0.3, name, "doubt", name)]),
            Marks(title=name, about=name, series=[name, "b"], panels=panels,
                  places=[Place(0, name), Place(1, name), Place(1, name)],
                  groups=[Group(0, 2, name)]),
            Curves(title=name, about=name, x=axis, y=axis, at=[1, 2],
                   curves=[Curve(name, [1, 2]), Curve(name, [2, None])],
                   points=[Point(1.5, 2, name)]),
            HeatMap(title=name, about=name, x=axis, y=axis, z=axis, xs=[name], ys=[name],
                    values=[[1.0]], marked=frozenset({(0, 0)}), mark=name),
        ],
        [{name: name}], {name: name},
    )  # fmt: skip


PLAIN = Checked(write(everywhere("a"), "html")).counts


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_words_make_no_element(kind):
    page = write(everywhere(HOSTILE[kind]), "html")
    page.encode()
    assert Checked(page).counts == PLAIN
    assert not RAW.search(page)


NUMBER = st.floats(-1e100, 1e100) | st.sampled_from([0.0, 1e-300, -1e-100, 1.0, 1e9])
KNOWN = st.none() | NUMBER
ENDS = st.none() | st.tuples(NUMBER, NUMBER).map(lambda ends: tuple(sorted(ends)))
WORDS = st.sampled_from(["", "a", "inl_from_qemu", "w" * 99])
AXES = st.builds(Axis, WORDS, WORDS, st.booleans())


def lists(strategy, least=0, most=5):
    return st.lists(strategy, min_size=least, max_size=most)


@st.composite
def drawings(draw):
    """Draw a plot of any kind with any figures."""
    about = dict(title=draw(WORDS), about=draw(WORDS))
    axis, other = draw(AXES), draw(AXES)
    many = draw(st.integers(0, 4))
    row = lists(KNOWN, many, many)
    places = draw(lists(st.builds(Place, st.integers(0, 1), WORDS), many, many))
    at = st.integers(0, max(many - 1, 0))
    levels = st.tuples(at, at, NUMBER, WORDS).map(lambda x: Level(min(x[:2]), max(x[:2]), *x[2:]))
    ends = st.tuples(at, at, WORDS).map(lambda x: Group(min(x[:2]), max(x[:2]), x[2]))
    some = lists(levels) if many else st.just([])
    panel = st.builds(Panel, WORDS, WORDS, row, some, st.none() | NUMBER.map(abs), WORDS)
    parts = lists(NUMBER.map(abs), 2, 2)
    return draw(
        st.one_of(
            st.builds(Bars, axis=st.just(axis), parts=st.just(["a", "b"]),
                      bars=lists(st.builds(Bar, WORDS, WORDS, parts)), **map_just(about)),
            st.builds(Dots, axis=st.just(axis), reference=KNOWN,
                      dots=lists(st.builds(Dot, WORDS, KNOWN, ENDS, KNOWN,
                                           st.none() | NUMBER.map(abs), WORDS)),
                      **map_just(about)),
            st.builds(Marks, series=st.just(["a", "b"]), places=st.just(places),
                      panels=lists(panel), groups=lists(ends) if many else st.just([]),
                      reference=KNOWN, joined=st.booleans(), **map_just(about)),
            st.builds(Curves, x=st.just(axis), y=st.just(other),
                      at=lists(NUMBER, many, many).map(sorted),
                      curves=lists(st.builds(Curve, WORDS, row, row)),
                      points=lists(st.builds(Point, NUMBER, NUMBER, WORDS)), reference=KNOWN,
                      **map_just(about)),
            st.builds(HeatMap, x=st.just(axis), y=st.just(axis), z=st.just(axis),
                      xs=st.just(["x"] * many), ys=st.just(["y"]), values=st.tuples(row),
                      marked=st.frozensets(st.tuples(st.just(0), at)) if many else
                      st.just(frozenset()), **map_just(about)),
        )
    )  # fmt: skip


def map_just(fields):
    return {name: st.just(value) for name, value in fields.items()}


@settings(deadline=None, max_examples=60)
@given(drawings())
def test_any_figures_are_drawn(plot):
    page = write(Document("t", [plot]), "html")
    Checked(page)
    assert not re.search(r'[ "MLHV-](nan|inf)\b', page)
    numbers = re.findall(r' (?:x|y|cx|cy|width|height)="(-?[\d.]+)"', page)
    assert all(abs(float(number)) < 20_000 for number in numbers)
    ElementTree.fromstring(standalone(plot))


def test_a_plot_is_in_no_other_form():
    plot = Bars(title="t", axis=Axis("cycles"), parts=["p"], bars=[Bar("b", "", [1])])
    for form in ("text", "markdown"):
        assert write(Document("d", [plot, Note("n")]), form) == "d\n\nn\n"


def cells(plot):
    """Return the table of a plot's figures as text: its headings, and its rows."""
    table = plot.table()
    heads = [" ".join(filter(None, (c.heading, c.unit))) for c in table.columns]
    return heads, [[getattr(cell, "text", cell) for cell in row] for row in table.rows]


def test_the_figures_of_each_kind_by_hand():
    assert cells(
        Bars(
            title="", axis=Axis("time", "ms"), parts=["a", "b"], bars=[Bar("w", "before", [1, 2.5])]
        )
    ) == (["row", "side", "a ms", "b ms", "sum ms"], [["w", "before", "1", "2.5", "3.5"]])
    assert cells(
        Dots(
            title="",
            axis=Axis("shift", "%"),
            start="6.1",
            dots=[Dot("w", -7, (-8, -6.5), 0, 0.5, "faster", "good"), Dot("v", None)],
        )
    ) == (
        ["row", "6.1 %", "margin %", "shift %", "interval %", ""],
        [["w", "0", "0.5", "-7", "[-8, -6.5]", "faster"], ["v", "-", "-", "-", "-", ""]],
    )
    assert cells(
        Marks(
            title="",
            series=["before", "after"],
            places=[Place(0, "1"), Place(1, "2")],
            panels=[Panel("w", "cycles", [1291, None])],
        )
    ) == (["row", "1 before", "2 after"], [["w", "1291", ""]])
    assert cells(
        Curves(
            title="",
            x=Axis("share"),
            y=Axis("worth", "%"),
            at=[0, 1],
            curves=[Curve("worth", [2, None], [0.1, None])],
            points=[Point(0.5, 1, "gone")],
        )
    ) == (
        ["share", "worth %", "error %", ""],
        [["0", "2", "0.1", ""], ["1", "-", "-", ""], ["0.5", "", "", "gone"]],
    )
    assert cells(HeatMap(title="", x=Axis("x"), y=Axis("y"), z=Axis("z"), xs=["1"], ys=["2"],
                         values=[[None]])) == (["y \\ x", "1"], [["2", "-"]])  # fmt: skip


def test_marks_stand_where_their_figures_are():
    """By hand: three runs at 10, 20 and 30 are equally far from each other, the least lowest."""
    plot = Marks(title="t", series=["s"], places=[Place(0, str(n)) for n in range(3)],
                 panels=[Panel("w", "cycles", [10, 30, 20])])  # fmt: skip
    (panel,) = drawn(plot, "p1")
    (found,) = re.findall(r'<path class="after round" d="(.*?)"', panel.body)
    (x0, y0), (x1, y1), (x2, y2) = re.findall(r"M([\d.]+) ([\d.]+)h0", found)
    assert float(x1) - float(x0) == pytest.approx(float(x2) - float(x1), abs=0.11)
    assert float(y0) - float(y2) == pytest.approx(float(y2) - float(y1), abs=0.11)
    assert float(y0) > float(y2) > float(y1) > 0


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_words_in_a_notebook(kind):
    shown, plain = fragment(everywhere(HOSTILE[kind])), fragment(everywhere("a"))
    assert not RAW.search(shown)
    assert Notebook(shown).counts == Notebook(plain).counts
    assert len(pictures(shown)) == 5
    assert pictures(shown) == pictures(plain)


def pictures(shown):
    """Return the elements of each picture in a fragment, which is an SVG file and XML."""
    found = []
    for data in re.findall(r'src="data:image/svg\+xml;base64,([\w+/=]+)"', shown):
        root = ElementTree.fromstring(base64.b64decode(data).decode())
        found.append(sorted(element.tag.rpartition("}")[2] for element in root.iter()))
    return found


# In a browser


def rgb(words):
    """Return the channels of a computed colour, 0 to 255, and its opacity."""
    numbers = [float(n) for n in re.findall(r"[\d.]+", words)]
    return numbers[:3], (numbers[3] if len(numbers) > 3 else 1.0)


def over(top, opacity, bottom):
    """Return a colour that lies over another one."""
    return [opacity * a + (1 - opacity) * b for a, b in zip(top, bottom, strict=True)]


def luminance(colour):
    """Return the relative luminance of WCAG 2.2."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Return the contrast of two colours, 1 to 21."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def hexadecimal(words):
    return [int(words[n : n + 2], 16) for n in (1, 3, 5)]


def test_the_contrast_is_that_of_wcag():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast(hexadecimal("#777777"), [255, 255, 255]) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["before", "after", "fg", "soft", "good", "bad", "doubt"])
def test_marks_stand_out(colours, name):
    for ground in ("bg", "band"):
        assert contrast(hexadecimal(colours[name]), hexadecimal(colours[ground])) >= 3


# Each text with its colour, and the colours that lie below its middle, the topmost first.
TEXTS = """(() => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest("title")) continue;
    if (!element.checkVisibility()) continue;
    element.scrollIntoView({block: "nearest", inline: "center"});
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (!box.width) continue;
    const style = getComputedStyle(element), drawn = element.closest("svg");
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    const below = [];
    for (const other of document.elementsFromPoint(x, y)) {
      const look = getComputedStyle(other);
      if (other.closest("svg") && !/^(svg|text|tspan|g)$/.test(other.tagName))
        below.push([look.fill, look.fillOpacity]);
      else if (!other.closest("svg")) below.push([look.backgroundColor, 1]);
    }
    found.push([node.data.trim().slice(0, 40), drawn ? style.fill : style.color, below]);
  }
  return found;
})()"""


def faint(chromium):
    """Return the texts of the open page whose contrast is below CONTRAST, and the number of all."""
    height = chromium.run("document.documentElement.scrollHeight + 3000")
    width = chromium.run("innerWidth")
    chromium.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
    texts = chromium.run(TEXTS)
    found = []
    for words, colour, below in texts:
        ground = [255.0, 255.0, 255.0]
        for other, share in reversed(below):
            if other != "none" and "url" not in other:
                top, opacity = rgb(other)
                ground = over(top, opacity * float(share), ground)
        if (seen := contrast(rgb(colour)[0], ground)) < CONTRAST:
            found.append((words, round(seen, 2), colour, ground))
    return found, len(texts)


@needs_chromium
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_silent_and_can_be_read(files, chromium, screenshots, kind):
    for dark in (False, True):
        said, asked = chromium.open(files[kind], dark=dark)
        assert (said, asked) == ([], [files[kind].as_uri()])
        ground = chromium.run("getComputedStyle(document.documentElement).backgroundColor")
        assert rgb(ground)[0] == hexadecimal((DARK if dark else LIGHT)["bg"])
        assert chromium.run("document.documentElement.scrollWidth") <= 1000
        chromium.screenshot(screenshots / f"{kind}-{'dark' if dark else 'light'}.png")
        found, count = faint(chromium)
        assert found == []
        assert count > 20


@needs_chromium
@pytest.mark.parametrize("kind", ["compare", "run", "check"])
def test_a_page_on_paper_and_in_a_narrow_window(files, chromium, screenshots, kind):
    chromium.open(files[kind], dark=True, media="print", width=760)
    ground = chromium.run("getComputedStyle(document.documentElement).backgroundColor")
    assert rgb(ground)[0] == hexadecimal(LIGHT["bg"])
    shown = "[...document.querySelectorAll('details table')].every(one => one.checkVisibility())"
    assert chromium.run(shown)  # paper has no key that opens them
    chromium.screenshot(screenshots / f"{kind}-print.png")
    chromium.open(files[kind], width=360)
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    chromium.screenshot(screenshots / f"{kind}-narrow.png")
    chromium.open(files[kind], contrast=True)
    assert chromium.run("matchMedia('(forced-colors:active)').matches")
    chromium.screenshot(screenshots / f"{kind}-forced.png")


@needs_chromium
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_browser_obeys_no_hostile_words(chromium, screenshots, tmp_path, kind):
    file = tmp_path / "page.html"
    file.write_text(write(everywhere(HOSTILE[kind]), "html"))
    said, asked = chromium.open(file, width=800)
    assert (said, asked) == ([], [file.as_uri()])
    counts = chromium.run(
        "[...document.querySelectorAll('*')].reduce((all, one) => (all[one.tagName.toLowerCase()] ="
        " (all[one.tagName.toLowerCase()] || 0) + 1, all), {})"
    )
    assert counts == PLAIN
    assert chromium.run("document.documentElement.scrollWidth") <= 800
    chromium.screenshot(screenshots / f"hostile-{kind.replace(' ', '-')}.png")


@needs_chromium
def test_the_browser_would_tell(chromium, tmp_path):
    """Control: messages and requests of a page that is not ours are seen."""
    file = tmp_path / "page.html"
    file.write_text("<p>a</p><script>console.log('x')</script><img src='nowhere.png'>")
    said, asked = chromium.open(file)
    assert len(said) >= 1
    assert [Path(url).name for url in asked] == ["page.html", "nowhere.png"]
    file.write_text("<html style='background:#fff'><body style='color:#999'>faint</body></html>")
    chromium.open(file)
    assert [words for words, *_ in faint(chromium)[0]] == ["faint"]
    ours = write(Document("t", [Note("n")]), "html")
    file.write_text(ours.replace("</main>", "<script>1</script><img src='nowhere.png'></main>"))
    said, asked = chromium.open(file)
    assert any("Content Security Policy" in str(one) for one in said)  # it lets neither through
    assert "'console.log'" not in str(said)


def key(chromium, name, code):
    for kind in ("keyDown", "keyUp"):
        chromium.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code, text="\r" if name == "Enter" else "")  # fmt: skip


@needs_chromium
def test_keys_reach_everything_in_order(files, chromium):
    chromium.open(files["compare"])
    chromium.run("window.all = [...document.querySelectorAll('a,summary,[tabindex]')]"
                 ".filter(one => one.checkVisibility()), 1")  # fmt: skip
    order = []
    for _ in range(chromium.run("all.length")):
        key(chromium, "Tab", 9)
        order.append(chromium.run("all.indexOf(document.activeElement)"))
        assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert order == list(range(len(order)))
    assert len(order) > 15
    chromium.run("document.querySelector('summary').focus()")
    key(chromium, "Enter", 13)
    assert chromium.run("document.querySelector('details').open")


@needs_chromium
@pytest.mark.parametrize("kind", ["compare", "check"])
def test_a_screen_reader_finds_the_order(files, chromium, kind):
    chromium.open(files[kind])
    chromium.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    nodes = {n["nodeId"]: n for n in chromium.call("Accessibility.getFullAXTree")["nodes"]}

    def read(node):
        """Yield the roles and names below a node in the order in which they are read."""
        if not node["ignored"]:
            yield node["role"]["value"], node.get("name", {}).get("value", "")
        for child in node.get("childIds", ()):
            yield from read(nodes[child])

    found = list(read(next(iter(nodes.values()))))
    roles = [role for role, _ in found]
    images = [name for role, name in found if role in ("image", "img")]
    assert len(images) == chromium.run("document.querySelectorAll('svg').length")
    assert all(images)
    if kind == "compare":
        assert "inl_from_qemu: -7.3 % faster?; " in images[0]
        assert images[1] == "Signs: 6.11.0, 6.12.0"
        assert images[2].startswith("cpuid, cycles: 6.11.0: 8 from 1,3")
    headings = [name for role, name in found if role == "heading"]
    assert headings == chromium.run(
        "[...document.querySelectorAll('h1,h2')].map(one => one.textContent)"
    )
    assert roles.index("heading") < roles.index("table")
    rows = [role for role in roles if role in ("columnheader", "rowheader")]
    assert {"columnheader", "rowheader"} <= set(rows)
    # Words inside of a picture are in its name or in the table, and are not read one by one.
    assert not {"SvgRoot", "GraphicsSymbol"} & set(roles)
