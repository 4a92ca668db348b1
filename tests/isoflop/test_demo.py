"""The study of `make demo`: what its design promises, and that it grows where a minimum lies at an edge."""

import pandas as pd
import pytest

from configs.lm import demo as study, hour
from isoflop import demo
from isoflop.config_file import complete
from sweeps import collect
from sweeps.plan import plan


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Writes the table that a sweep directory would be collected into: losses by budget and width."""

    def write(losses: dict[float, dict[int, list[float]]]):
        rows = [
            {"status": "completed", "budget": budget, "model.width": width, "loss": loss}
            for budget, sizes in losses.items()
            for width, seeds in sizes.items()
            for loss in seeds
        ]
        pd.DataFrame([*rows, {**rows[0], "status": "diverged", "loss": -1.0}]).to_parquet(tmp_path / "runs.parquet")
        monkeypatch.setattr(collect, "collect", lambda sweep: tmp_path / "runs.parquet")
        return tmp_path

    return write


INSIDE = {16: [2.1], 24: [2.0, 2.02], 32: [2.05]}
BELOW = {16: [1.9], 24: [2.0], 32: [2.1]}
ABOVE = {16: [2.2], 24: [2.1], 32: [1.9, 2.0]}


def test_a_minimum_at_an_edge_asks_for_the_next_width(measured):
    sweep = measured({1e11: BELOW, 2e11: INSIDE, 4e11: ABOVE, 8e11: ABOVE})
    assert demo.edges(sweep, "budget<8e11") == {"1e+11": 8, "4e+11": 48}
    assert demo.edges(sweep, "budget==8e11") == {"8e+11": 48}
    assert demo.edges(measured({2e11: INSIDE}), "budget<8e11") == {}


def test_the_demo_grows_until_minima_are_inside_and_says_so(measured, monkeypatch, capsys):
    tables = iter([{1e11: INSIDE, 4e11: ABOVE}, {1e11: INSIDE, 4e11: {**ABOVE, 48: [2.3]}}])
    said = []

    def say(*words, check=True):
        said.append(words)
        measured(next(tables))
        return 0

    monkeypatch.setattr(demo, "say", say)
    assert demo.grow("sweep", "budget<8e11", {}) == {"4e+11": [48]}
    assert [words[1] for words in said] == [f"--config={demo.CONFIG}", f"--config={demo.CONFIG}:4e+11=48"]
    assert "the best size at 4e+11 FLOPs is at the edge of its sizes: width 48 is added" in capsys.readouterr().out


def test_the_design_keeps_its_promises():
    """At least five sizes of a budget, three seeds of one, 400 steps, one epoch, small batches; FLOPs as budgeted."""
    found = plan(complete(study.get_config()))
    assert not found.refused
    table = pd.DataFrame(
        [point.labels | {"width": point.config.model.width} | dict(point.config.derived) for point in found.points]
    )
    assert sorted(table.budget.unique()) == sorted(study.WIDTHS)
    for budget, group in table.groupby("budget"):
        assert group.width.nunique() >= 5 and sorted(group.width.value_counts())[-1] == 3
        assert (group.flops / budget - 1).abs().max() < 0.01
    assert table.steps.min() >= 400
    assert all(point.config.batch_size * point.config.data.seq_len <= 2048 for point in found.points)


def test_the_hour_on_the_standard_library_repeats_no_data():
    found = plan(complete(hour.get_config("stdlib")))
    assert not found.refused and len({point.labels["budget"] for point in found.points}) == 3
    with pytest.raises(ValueError, match="debian or stdlib"):
        hour.get_config("books")
