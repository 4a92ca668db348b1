"""Numbers, times and formulas as text for people."""

import math
import re
import time
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


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
    """Seconds in the unit that suits them."""
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


def span(ends: Any, write: Callable[..., str] = number, *options: Any) -> str:
    """The ends of an interval; nothing where one is not known.

    Args:
        ends: the interval.
        write: an end as text.
        options: of ``write``.
    """
    if not ends or missing(ends[0]) or missing(ends[1]):
        return ""
    return f"[{write(ends[0], *options)}, {write(ends[1], *options)}]"


def formula(text: str) -> Markup:
    """A formula in plain characters as HTML, its exponents raised."""
    pieces = re.split(r"\^(\([^()]*\)|[\w.−×-]+)", text)
    raised = Markup("<sup>{}</sup>")
    return Markup("").join(raised.format(part.strip("()")) if i % 2 else escape(part) for i, part in enumerate(pieces))
