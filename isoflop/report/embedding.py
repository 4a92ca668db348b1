"""Figures as data inside the page."""

from dataclasses import dataclass

import plotly.graph_objects as go
from markupsafe import Markup

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif'
LAYOUT = {
    "template": "none",
    "font": {"family": FONT, "size": 13},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 64, "r": 36, "t": 44, "b": 52},
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


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure of the page.

    Args:
        name: of its element.
        height: in pixels.
        caption: above it.
        data: JSON in which no markup can begin.
    """

    name: str
    height: int
    caption: str
    data: Markup


def embed_figure(name: str, figure: go.Figure, caption: str) -> EmbeddedFigure:
    """A figure in the page's layout.

    Args:
        name: unique on the page.
        figure: with its height; its layout is changed.
        caption: above it.
    """
    figure.update_layout(LAYOUT)
    figure.update_xaxes(showline=True, ticks="outside", ticklen=4, zeroline=False, exponentformat="power")
    figure.update_yaxes(
        showline=True, ticks="outside", ticklen=4, zeroline=False, exponentformat="power", automargin=True
    )
    figure.update_xaxes(title_standoff=6, tickangle=0, automargin=True)
    figure.update_annotations(font_size=12)
    data = Markup((figure.to_json() or "").replace("<", "\\u003c"))  # "<" alone could end the element it stands in
    return EmbeddedFigure(name, int(figure.layout.height), caption, data)
