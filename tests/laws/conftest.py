"""A simulated sweep and its fit, shared by the tests of the laws.

What is compiled for a law is compiled for a number of rows: tables of 28, as the four smaller budgets have, share it.
"""

import pandas as pd
import pytest
from simulated import simulate, simulate_curves


@pytest.fixture(scope="session")
def sweep() -> pd.DataFrame:
    return simulate()


@pytest.fixture(scope="session")
def curves(sweep) -> pd.DataFrame:
    return simulate_curves(sweep)


@pytest.fixture(scope="session")
def below(sweep) -> pd.DataFrame:
    """All budgets but the largest."""
    return sweep[sweep["budget"] < 1e12]


@pytest.fixture(scope="session")
def held(sweep):
    """The law of the four smaller budgets, with the fifth held out."""
    import laws

    return laws.load(sweep).fit("chinchilla", resamples=100, holdout_above=6e11)


@pytest.fixture(scope="session")
def fitted(below, curves):
    """The law of the four smaller budgets, with its target at the fifth."""
    import laws

    return laws.load(below).fit("chinchilla", resamples=200, target=1e12, curves=laws.load_curves(curves))
