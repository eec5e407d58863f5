"""The style of pages and pictures: colours for light, dark and print, and the rules that use them.

The tests compute the contrast of each pair in a browser. Colour is never the only sign: a mark has
a shape too, a part of a bar a pattern, a verdict its words.
"""

from __future__ import annotations

__all__ = ["FORCED", "LIGHT", "PAGE", "PATTERNS", "PICTURE", "colours"]

LIGHT = {
    "bg": "#ffffff", "fg": "#1b1d1f", "soft": "#55595e", "line": "#b9bec4", "band": "#eef1f4",
    "before": "#9a4a00", "after": "#0a5aa8", "good": "#11672c", "bad": "#b1221b",
    "doubt": "#7a5000", "mark": "#fdf0c4", "good-bg": "#e5f4e8", "bad-bg": "#fdeae8",
    "doubt-bg": "#fdf3d9", "p0": "#a9cbe8", "p1": "#f0b77f", "p2": "#9ad1b3", "p3": "#d9b3d9",
    "p4": "#e6d36a",
}  # fmt: skip
DARK = {
    "bg": "#14171a", "fg": "#e9ebed", "soft": "#aab0b7", "line": "#4c535b", "band": "#20252a",
    "before": "#f5a55a", "after": "#74b9ff", "good": "#7fd89a", "bad": "#ff938b",
    "doubt": "#f0c45c", "mark": "#4a3f12", "good-bg": "#14301d", "bad-bg": "#3d1a18",
    "doubt-bg": "#3a2f10", "p0": "#2f6ea6", "p1": "#a4601c", "p2": "#2f7f58", "p3": "#8a528a",
    "p4": "#7d7015",
}  # fmt: skip
FORCED = {  # where the reader chose the colours, as in Windows' high contrast
    **dict.fromkeys(LIGHT, "CanvasText"),
    **dict.fromkeys(("bg", "band", "mark", "good-bg", "bad-bg", "doubt-bg"), "Canvas"),
    **dict.fromkeys(("p0", "p1", "p2", "p3", "p4"), "Canvas"),
}

PATTERNS = ("", "M-1 1l2-2M0 6l6-6M5 7l2-2", "M0 3h6", "M3 0v6", "M3 3h.1")
"""The lines of the patterns that parts of bars have, in a square of 6; the first is plain."""

PICTURE = """\
svg{font:12px system-ui,sans-serif;fill:var(--fg)}
.soft{fill:var(--soft)}
.axis,.grid{stroke:var(--line);fill:none}
.grid{stroke-dasharray:2 3}
.zero{stroke:var(--soft);fill:none}
.band{fill:var(--band)}
.margin{fill:var(--soft);fill-opacity:.22}
.before{stroke:var(--before);fill:none}
.after{stroke:var(--after);fill:none}
.third{stroke:var(--fg);fill:none}
.open{fill:var(--bg);stroke-width:2}
.full.after{fill:var(--after)}
.full.before{fill:var(--before)}
.bar{stroke-width:2}
.thin{stroke-width:1.2}
.thick{stroke-width:3}
.square{stroke-width:6;stroke-linecap:square}
.round{stroke-width:7;stroke-linecap:round}
.cross,.plus,.caret{stroke-width:2}
.dash{stroke-dasharray:6 4}
.error{stroke:none;fill:var(--after);fill-opacity:.18}
.error.before{fill:var(--before)}
.good{fill:var(--good)}.bad{fill:var(--bad)}.doubt{fill:var(--doubt)}
.b{font-weight:600}
.halo{paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}
.edge{stroke:var(--fg);fill:none}
.hatch{stroke:var(--fg);stroke-width:1.1;fill:none}
.hatch.d{stroke-width:2.4;stroke-linecap:round}
.p0{fill:var(--p0)}.p1{fill:var(--p1)}.p2{fill:var(--p2)}.p3{fill:var(--p3)}.p4{fill:var(--p4)}
.hot{fill:var(--after)}.cold{fill:var(--before)}
.paper{fill:var(--bg)}
"""

PAGE = """\
*{box-sizing:border-box}
html{background:var(--bg);color:var(--fg);color-scheme:light dark}
body{margin:0;font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.35rem;line-height:1.3;margin:0 0 1rem}
h2{font-size:1.1rem;font-weight:600;line-height:1.35;margin:2rem 0 .5rem}
p,ul,dl{margin:.6rem 0;max-width:46rem}
figure{margin:0 0 1.5rem}
figure p{color:var(--soft);font-size:.9rem;margin:.2rem 0 .5rem}
.scroll{overflow-x:auto;margin:.6rem 0}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--after);\
outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;vertical-align:top;\
border-bottom:1px solid var(--line);unicode-bidi:isolate;overflow-wrap:normal}
.dense th,.dense td{padding:.2rem .4rem}
th{font-weight:600}
thead th{vertical-align:bottom;border-bottom:2px solid var(--soft)}
thead small{display:block;font-weight:400;color:var(--soft)}
.k,.w,.l{text-align:left;max-width:24rem;overflow-wrap:break-word}
.l{min-width:9rem}
tbody .k{font-weight:500}
.f{white-space:nowrap}
td.good,th.good{color:var(--good);background:var(--good-bg)}
td.bad,th.bad{color:var(--bad);background:var(--bad-bg)}
td.doubt,th.doubt{color:var(--doubt);background:var(--doubt-bg)}
td.mark{background:var(--mark);font-weight:700}
td small{display:block}
a{color:inherit}
:target{background:var(--mark);outline:2px solid var(--doubt)}
svg{display:block;max-width:100%;height:auto;min-width:34rem}
.panels{display:flex;flex-wrap:wrap;gap:.75rem 1rem}
.panels svg{min-width:0}
.signs{flex-basis:100%}
details{margin:.4rem 0;font-size:.9rem}
summary{cursor:pointer;color:var(--soft)}
dl{display:grid;grid-template-columns:fit-content(12rem) 1fr;gap:.2rem 1rem}
dt{font-weight:600}dd{margin:0}
pre{overflow-x:auto;background:var(--band);padding:.7rem;font-size:.85rem}
footer{color:var(--soft);font-size:.85rem;margin-top:3rem}
@media (max-width:34rem){main{padding:1rem .6rem 2rem}th,td{padding:.25rem .4rem}}
@media print{main{max-width:none;padding:0}body{font-size:10.5pt}figure,tr,svg{break-inside:avoid}\
.scroll{overflow:visible}svg{min-width:0}.dense{font-size:7pt}\
.dense th,.dense td{padding:.1rem .2rem}details::details-content{content-visibility:visible}\
h2,figcaption{break-after:avoid}}
"""


def colours() -> str:
    """Return the rules that give each colour its value: light, dark, print and forced colours."""

    def root(values: dict[str, str]) -> str:
        return ":root{" + ";".join(f"--{name}:{value}" for name, value in values.items()) + "}"

    return (
        f"{root(LIGHT)}\n@media screen and (prefers-color-scheme:dark){{{root(DARK)}}}\n"
        f"@media (forced-colors:active){{{root(FORCED)}svg{{forced-color-adjust:none}}}}\n"
    )
