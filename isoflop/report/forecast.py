"""The frozen prediction: what was frozen, what was measured since, and what naive forecasters would have said."""

from typing import Any

from isoflop.report import figures
from isoflop.report.law import distance
from isoflop.report.markup import (
    Html,
    count,
    definitions,
    join,
    moment,
    number,
    percent,
    span,
    table,
    tag,
)
from isoflop.report.study import Place, Study


def prediction(study: Study, place: Place) -> Html | None:
    """The frozen prediction, what was measured since, and what naive forecasters would have said."""
    frozen, score = study.prediction, study.score
    if frozen is None and score is None:
        return None
    made = _frozen(frozen, study) if frozen else None
    if score is None:
        return join(tag("p", "Not measured yet: isoflop score compares once the runs are there."), made)
    said, naive = score["predicted"], score["baselines"]
    rows = [
        [
            tag("b", "the law"),
            number(said["loss"], 5),
            span(said["interval"], lambda v: number(v, 5)),
            tag("b", percent(score["abs_rel_error"])),
        ]
    ]
    for key, title in figures.NAIVE_NAMES.items():
        if naive.get(key):
            rows.append([f"naive: {title}", number(naive[key]["loss"], 5), "", percent(naive[key]["abs_rel_error"])])
    rows.append(["measured", number(score["measured"]["loss"], 5), "", ""])
    level, runs_ = f"{said['level']:.0%}", score["runs"]
    verdict = tag("span", "inside", class_="good") if score["covered"] else tag("span", "outside", class_="bad")
    notes = [
        join(
            "The measured loss lies ",
            verdict,
            f" the {level} interval, which is {percent(score['relative_width'])} of the loss wide.",
        ),
        "" if score["informative"] else "An interval as wide as that says little.",
        f"Measured is the {score['measured']['how']}.",
        f"At their own sizes, the {runs_['n']} runs there lie {percent(runs_['mean_abs_rel_error'])} from the law on "
        f"average and {percent(runs_['max_abs_rel_error'])} at worst; {percent(runs_['coverage'])} are inside their "
        "intervals.",
    ]
    cautions = [tag("li", text) for text in score["warnings"]]
    return join(
        place(
            "forecasts",
            figures.forecasts(score),
            "Three forecasts made from the smaller budgets, and the loss that was measured.",
        ),
        table(["forecast", "loss", f"{level} interval", "absolute relative error"], rows),
        tag("p", *(join(note, " ") for note in notes if note)),
        tag("ul", *cautions) if cautions else None,
        made,
    )


def closer(score: dict[str, Any]) -> list[tuple[str, float]]:
    """Naive forecasts that came closer than the law's, and how close."""
    naive = ((title, score["baselines"].get(key)) for key, title in figures.NAIVE_NAMES.items())
    return [
        (title, said["abs_rel_error"])
        for title, said in naive
        if said and said["abs_rel_error"] < score["abs_rel_error"]
    ]


def _frozen(frozen: dict[str, Any], study: Study) -> Html:
    said, first = frozen["prediction"], (study.score or {}).get("first_record_at")
    split = said.get("split")
    inputs = [join(tag("code", item["path"]), f" {item['sha256'][:16]} ") for item in frozen.get("inputs", [])]
    best = [
        f"{variable.upper()}* = {count(split[variable])} {span(split[f'{variable}_interval'], count)}"
        for variable in ("n", "d")
        if split
    ]
    return definitions(
        [
            (
                "predicted",
                f"loss {number(said['value'], 5)} {span(said['interval'], lambda v: number(v, 5))} for one run",
            ),
            ("at", ", ".join(best)),
            ("frozen", moment(frozen["created_at"])),
            ("first run there ended", moment(first) if first else None),
            ("extrapolation", distance(said["extrapolation"])),
            ("made from (sha256)", join(*inputs) if inputs else None),
            ("seal (sha256)", tag("code", frozen.get("sha256", "none"))),
        ]
    )
