"""Conditions on rows: what they may say, and that they reach nothing but the table."""

import sys

import numpy as np
import pandas as pd
import pytest

from laws.base.errors import InputError
from laws.data.where import select

FRAME = pd.DataFrame(
    {
        "n": [1.0, 2.0, 3.0, np.nan],
        "family": pd.Series(["lstm", "rnn", None, "lstm2"], dtype="str"),
        "eval/loss": [1.0, 2.0, 3.0, 4.0],
        "tuned": [True, False, True, False],
        "class": [1.0, 2.0, 3.0, 4.0],
    }
)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("n > 1", [1, 2]),
        ("1 < n <= 3", [1, 2]),
        ("n > 1 and family == 'rnn'", [1]),
        ('n > 1 & family == "rnn"', [1]),
        ("(n > 2) | (family == 'lstm')", [0, 2]),
        ("not tuned", [1, 3]),
        ("tuned == False", [1, 3]),
        ("n != n", [3]),
        ("family in ['lstm', 'rnn']", [0, 1]),
        ("family not in ['lstm', 'rnn']", [2, 3]),
        ("n in [1, 3]", [0, 2]),
        ("family.str.startswith('lstm')", [0, 3]),
        ("family.str.contains('tm2')", [3]),
        ("family.str.contains('.')", []),
        ("family.isna() or n.isnull()", [2, 3]),
        ("`eval/loss` < 3 and `class` >= 2", [1]),
        ("6 * n * `eval/loss` ** 2 < 1e2", [0, 1]),
        ("n < 1" + "0" * 30, [0, 1, 2]),
        ("family == '`n`'", []),
    ],
)
def test_conditions(where, rows):
    if rows:
        assert select(FRAME, "runs.csv", where).index.tolist() == rows
    else:
        with pytest.raises(InputError, match=r"^runs.csv: no row satisfies where "):
            select(FRAME, "runs.csv", where)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("family == lstm", "no column 'lstm'; text stands in quotes: 'lstm'"),
        ("famly == 'lstm'", r"no column 'famly'; did you mean 'family'\?"),
        ("n >", "not an expression"),
        ("n > 1; n", "not an expression"),
        ("@n > 1", "not an expression"),
        ("`n > 1", "not an expression"),
        ("n", "not true or false of each row"),
        ("1 < 2", "not true or false of each row"),
        ("family < 3", "nvalid comparison"),
        ("family == None", "None is neither a number nor text"),
        ("n > " + "9" * 400, "too large a number"),
        ("9 ** 9 ** 9 > n", "an exponent is a number of at most 100"),
        ("n ** 9 ** 9 > 1", "an exponent is a number of at most 100"),
        ("(" * 1000 + "n" + ")" * 1000, "not an expression"),
        ("n > 1" + " and n > 1" * 1000, "longer than 4000 characters"),
        *(
            (where, "is not of its language")
            for where in (
                "__import__('sys').modules.update(executed=1)",
                "n.__class__.__mro__",
                "n.values > 1",
                "n.apply('print')",
                "n.isin.__self__ > 1",
                "n.to_csv('stolen.csv')",
                "family.str.cat('x') == 'y'",
                "family.str.contains('a', regex=True)",
                "(lambda: n)() > 1",
                "[x for x in (1, 2)] == n",
                "n[0] > 1",
                "f'{n}' == '1'",
                "(n := 3) > 1",
                "n > 1 if tuned else tuned",
                "{1: 2} == n",
            )
        ),
    ],
)
def test_whatever_says_more_is_refused(where, reason):
    with pytest.raises(InputError, match=reason) as error:
        select(FRAME, "runs.csv", where)
    assert str(error.value).startswith("runs.csv: cannot apply where")
    assert "\n" not in str(error.value)
    assert "executed" not in sys.modules


def test_text_is_no_regular_expression_that_never_ends():
    frame = pd.DataFrame({"name": pd.Series(["a" * 64], dtype="str")})
    with pytest.raises(InputError, match="no row satisfies"):
        select(frame, "table", "name.str.contains('(a+)+$b')")
