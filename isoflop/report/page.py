"""The report as one file: sections in reading order, plotly.js inlined once, nothing fetched."""

import time
from importlib.metadata import version

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from isoflop.report.assets import CSS, SCRIPT
from isoflop.report.headline import headline
from isoflop.report.markup import Html, join, tag
from isoflop.report.sections import SECTIONS
from isoflop.report.study import Study

# Inline code and style are all that the page may load: whatever a study's files contain, nothing is sent or fetched.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'"
)
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
LAYOUT = {
    "template": "none",
    "font": {"family": FONT, "size": 13},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 16, "t": 44, "b": 52},
    "legend": {
        "orientation": "h",
        "y": 1.02,
        "yanchor": "bottom",
        "x": 0,
        "font": {"size": 12},
        "tracegroupgap": 0,
    },
    "hoverlabel": {"align": "left", "font": {"size": 12}},
    "hovermode": "closest",
    "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": "#999999", "activecolor": "#0072B2"},
}


def place(name: str, figure: go.Figure, caption: str | Html) -> Html:
    """A figure: its caption, the place where it will be drawn, and its data."""
    figure.update_layout(LAYOUT)
    figure.update_xaxes(showline=True, ticks="outside", ticklen=4, zeroline=False, exponentformat="power")
    figure.update_yaxes(
        showline=True, ticks="outside", ticklen=4, zeroline=False, exponentformat="power", automargin=True
    )
    figure.update_xaxes(title_standoff=6)
    figure.update_annotations(font_size=13)
    data = Html((figure.to_json() or "").replace("<", "\\u003c"))
    return tag(
        "figure",
        tag("figcaption", caption),
        tag("div", id=f"plot-{name}", class_="plot", style=f"height:{figure.layout.height}px"),
        tag("script", data, type="application/json"),
    )


def render(study: Study) -> str:
    """The page."""
    parts = [(name, title, body) for name, title, section in SECTIONS if (body := section(study, place)) is not None]
    links = [tag("a", title, href=f"#{name}") for name, title, _ in parts]
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{study.name}: scaling law"),
        tag("style", Html(CSS)),
    )
    body = tag(
        "body",
        tag("header", headline(study), tag("nav", *links)),
        tag("main", *(tag("section", tag("h2", title), content, id=name) for name, title, content in parts)),
        tag("footer", f"Written by isoflop {version('isoflop')} on {written}. One file, nothing fetched."),
        tag("noscript", tag("footer", "The figures are drawn by JavaScript, which is off.")),
        tag("script", Html(get_plotlyjs())),
        tag("script", Html(SCRIPT)),
    )
    return join(Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"), "\n")
