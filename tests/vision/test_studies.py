"""The scaling studies of images keep their promises before anything is trained."""

import pandas as pd
import pytest

from configs.vision import saturation, scaling, scaling_gpu, star
from isoflop.config_file import complete
from sweeps.plan import plan

STUDIES = [scaling.get_config(name) for name in scaling.SETTINGS]
STUDIES += [scaling_gpu.get_config(name) for name in ("vit", "resnet")]


def shapes(points):
    return pd.DataFrame([point.labels | dict(point.config.model) | dict(point.config.derived) for point in points])


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_has_enough_sizes_a_budget_and_the_flops_that_it_names(study):
    found = plan(complete(study))
    assert not found.refused and study.study.size == "model.width" and study.study.d == "examples"
    table = shapes(found.points)
    for budget, group in table.groupby("budget"):
        assert group.width.nunique() >= 4 and (group.flops / budget - 1).abs().max() < 0.01
    repeated = table.groupby(["budget", "width"]).size()
    assert (repeated == 3).sum() == 3, "three points have three seeds"
    top = table[table.budget == table.budget.max()]
    assert top.params_total.max() == table.params_total.max(), "the largest model is held out"


def test_an_unknown_study_is_named():
    for module in (scaling, scaling_gpu):
        with pytest.raises(ValueError, match="the argument is one of"):
            module.get_config("mlp")


def test_every_arm_of_the_star_goes_through_its_centre():
    table = shapes(plan(complete(star.get_config())).points)
    for dimension in star.CENTRE:
        others = {key: value for key, value in star.CENTRE.items() if key != dimension}
        arm = table[(table[list(others)] == pd.Series(others)).all(axis=1)]
        values = {star.CENTRE[dimension], *star.ARMS[dimension]}
        assert arm.groupby("budget")[dimension].agg(set).tolist() == [values] * len(star.BUDGETS)


def test_saturation_reaches_from_few_images_to_many():
    table = shapes(plan(complete(saturation.get_config())).points)
    assert len(table) == 27 and table.examples.max() / table.examples.min() > 200
