"""HTML in which nothing from a study can become markup: every string is escaped unless it is `Html` already."""

import html
import math
import re
import time
from typing import Any

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
EMPTY = ("input", "meta", "br", "link")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def join(*children: Any) -> Html:
    """Children one after the other; None is left out."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children if c is not None))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element; `class_` is its class, and an underscore within an attribute's name stands for a hyphen."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    listed = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{listed}>" if name in EMPTY else f"<{name}{listed}>{join(*children)}</{name}>")


def definitions(pairs: list[tuple[str, Any]]) -> Html:
    """A list of terms and what is to be said of them; a term without anything is left out."""
    return tag("dl", *(join(tag("dt", term), tag("dd", said)) for term, said in pairs if said not in (None, "")))


def table(header: list[Any], rows: list[list[Any]], words: tuple[int, ...] = ()) -> Html:
    """A table whose first column heads its rows; every other column is of numbers, but for those of words."""
    kinds = ["word" if i in words else "num" if i else None for i in range(len(header))]
    head = tag("tr", *(tag("th", cell, scope="col", class_=kind) for cell, kind in zip(header, kinds, strict=True)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", c, class_=k) for c, k in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")


def missing(value: Any) -> bool:
    """Whether there is no number to be shown."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(value: Any, digits: int = 3) -> str:
    """A number to so many significant digits, without exponents where it can be read without."""
    if missing(value):
        return "–"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        exponent_of = int(f"{value:.{digits - 1}e}".split("e")[1])  # once rounded
        return f"{value:,.{max(digits - 1 - exponent_of, 0)}f}".replace("-", "−")
    return power_of_ten(value, digits)


def power_of_ten(value: Any, digits: int = 3) -> str:
    """A number as 1.00×10¹²."""
    if missing(value):
        return "–"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPTS)}".replace("-", "−")


def count(value: Any, digits: int = 3) -> str:
    """A number of parameters or tokens, as 16.2k or 6.20M."""
    if missing(value):
        return "–"
    for size, unit in UNITS:
        if float(f"{value:.{digits - 1}e}") >= size:
            return f"{number(value / size, digits)}{unit}"
    return f"{value:.0f}"


def duration(seconds: Any) -> str:
    """Seconds as people say them."""
    if missing(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(seconds: float) -> str:
    """A time of day in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def exponent(value: Any) -> str:
    """An exponent to three decimals."""
    return "–" if missing(value) else f"{value:.3f}".replace("-", "−")


def percent(share: Any, digits: int = 2) -> str:
    """A share in percent."""
    return "–" if missing(share) else f"{number(100 * share, digits)}%"


def span(ends: Any, write=number) -> str:
    """The ends of an interval."""
    return "" if not ends or missing(ends[0]) or missing(ends[1]) else f"[{write(ends[0])}, {write(ends[1])}]"


def formula(text: str) -> Html:
    """A formula in plain characters, its exponents raised."""
    pieces = re.split(r"\^(\([^()]*\)|[\w.−×-]+)", text)
    return join(*(tag("sup", piece.strip("()")) if i % 2 else piece for i, piece in enumerate(pieces)))
