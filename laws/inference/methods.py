"""Methods of the intervals of a fit."""

from enum import StrEnum


class IntervalMethod(StrEnum):
    """How the intervals of the constants were found; the value is what the command line and ``fit.json`` call it."""

    NONE = "none"
    PAIRS = "pairs"
    WILD = "wild"
    JACKKNIFE = "jackknife"
    PROFILE = "profile"

    @property
    def title(self) -> str:
        """The method's name in prose."""
        return _TITLES[self]


_TITLES = {
    IntervalMethod.NONE: "none",
    IntervalMethod.PAIRS: "bootstrap over runs",
    IntervalMethod.WILD: "wild bootstrap of leave-one-out residuals",
    IntervalMethod.JACKKNIFE: "jackknife over runs",
    IntervalMethod.PROFILE: "profile likelihood",
}
