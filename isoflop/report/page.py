"""The report as one file: sections in reading order, plotly.js inlined once, nothing fetched.

Templates escape every string of a study: none of it can become markup.
"""

import functools
import time
from importlib.metadata import version
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from isoflop.report import formats
from isoflop.report.headline import headline
from isoflop.report.sections import SECTIONS
from isoflop.report.study import Study

# Inline code and style are all that the page may load: whatever a study's files contain, nothing is sent or fetched.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'"
)
FORMATS = ("count", "duration", "exponent", "formula", "moment", "number", "percent", "power_of_ten", "span")


@functools.cache
def environment() -> Environment:
    """The templates, with the functions of `formats` as filters and by name."""
    templates = Environment(
        loader=PackageLoader("isoflop.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    named = {name: getattr(formats, name) for name in FORMATS}
    templates.filters.update(named)
    templates.globals.update(named)
    return templates


def _inlined(name: str) -> Markup:
    """A style sheet or script of ours."""
    return Markup(files("isoflop.report").joinpath("templates", name).read_text(encoding="utf-8"))


def render(study: Study) -> str:
    """The page."""
    templates = environment()
    sections = []
    for section in SECTIONS:
        content = section.content(study)
        if content is not None:
            html = Markup(templates.get_template(section.template).render(content))
            sections.append({"name": section.name, "title": section.title, "html": html})
    return templates.get_template("page.html").render(
        headline(study),
        policy=POLICY,
        style=_inlined("report.css"),
        plotly=Markup(get_plotlyjs()),
        script=_inlined("report.js"),
        sections=sections,
        version=version("isoflop"),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
