"""Tables of cases in two tiers: a few that show each behaviour in the quick one, repeats of them in the slow one."""

import pytest


def tiered(cases, quick):
    """Values for `pytest.mark.parametrize`; those that are not among `quick` are marked slow."""
    cases, quick = list(cases), list(quick)
    assert all(case in cases for case in quick), "a quick case that is none of the cases"
    as_tuple = lambda case: case if isinstance(case, tuple) else (case,)
    return [case if case in quick else pytest.param(*as_tuple(case), marks=pytest.mark.slow) for case in cases]
