"""What the answer owes to choices: every row is a fit of its own, and conventions keep the run that they describe."""

import pytest
from simulated import simulate

import laws
from laws.base.errors import InputError
from laws.uses.sensitivity import sensitivity


@pytest.fixture(scope="module")
def rows():
    frame = simulate(noise=0.001)
    frame = frame[frame.budget < 1e12]
    table = laws.load(frame)
    fitted = table.fit("chinchilla", resamples=0, target=1e12)
    return fitted, sensitivity(fitted, table, lambda **columns: laws.load(frame, **columns))


def test_the_first_row_is_the_fit_itself(rows):
    fitted, (first, *_) = rows
    assert first.kind == "as fitted"
    for name, key in (("a", "a"), ("n", "n_opt"), ("loss", "loss_opt")):
        assert getattr(first, name) == pytest.approx(fitted.derived["value"][key], rel=1e-6)


def test_every_kind_of_choice_is_made(rows):
    _, choices = rows
    kinds = [row.kind for row in choices]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert counts["objective"] == 3 and counts["left out"] == 4 and counts["form"] >= 2 and counts["convention"] == 2
    assert all(row.a is not None or row.reason for row in choices)


def test_good_data_hardly_move_and_a_wrong_form_does(rows):
    fitted, choices = rows
    derived = fitted.derived["value"]
    by = {row.choice: row for row in choices}
    for choice in ("log_huber, delta 0.01", "log_squared", "the 1 worst-fitted"):
        assert by[choice].a == pytest.approx(derived["a"], abs=0.02)
        assert by[choice].loss == pytest.approx(derived["loss_opt"], rel=2e-3)
    assert abs(by["kaplan"].a - derived["a"]) > 0.02  # the truth has an offset, which this form has not


def test_conventions_describe_the_same_run(rows):
    """N* in other parameters is N* less its embeddings, and the target is what that run costs in the other compute."""
    fitted, choices = rows
    derived = fitted.derived["value"]
    by = {row.choice: row for row in choices}
    other = by["n = params_non_embedding"]
    assert other.n < derived["n_opt"] and other.loss == pytest.approx(derived["loss_opt"], rel=3e-3)
    six = by["c = flops_6nd"]
    assert six.c == pytest.approx(6 * derived["n_opt"] * derived["d_opt"], rel=0.02)


def test_a_law_without_a_split_is_refused():
    table = laws.load(simulate())
    fitted = table.fit("power_offset_c", resamples=0)
    with pytest.raises(InputError, match="law 'power_offset_c' is not a law of both n and d"):
        sensitivity(fitted, table, None)
