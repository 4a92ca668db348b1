"""The commands of the laws: JSON as agreed, exit codes, one line for an error, nothing half-written."""

import json

import pandas as pd
import pytest

import laws
from isoflop import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sweep, below, curves):
    """A collected sweep and its fit."""
    path = tmp_path_factory.mktemp("study")
    sweep.to_parquet(path / "runs.parquet")
    curves.to_parquet(path / "curves.parquet")
    code = cli.main(
        [
            "fit",
            str(path / "runs.parquet"),
            "--where=budget<1e12",
            "--target=1e12",
            "--resamples=60",
            f"--out={path / 'fit.json'}",
        ]
    )
    assert code == 0
    return path


def json_of(capsys, *argv) -> dict:
    capsys.readouterr()
    assert cli.main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, code, *argv) -> str:
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_fit_writes_what_it_prints(folder):
    report = laws.read_fit(folder / "fit.json").report
    assert report.command is not None and report.command.startswith("isoflop fit ")
    assert "--target=1e+12" in report.command, "as a person writes it"
    assert report.columns == {
        "n": "params_total",
        "d": "tokens",
        "c": "flops_exact",
        "loss": "loss",
        "run": "run_id",
    }
    # The curves beside the table were found: approach 1 has an answer or a reason of its own.
    assert "no learning curves" not in (report.approaches["envelope"].reason or "")


def test_fit_of_a_strangers_csv(capsys, tmp_path, sweep):
    path = tmp_path / "theirs.csv"
    sweep[["params_total", "tokens", "loss"]].set_axis(["P", "T", "nll"], axis=1).to_csv(path, index=False)
    columns = ("--n_column=P", "--d_column=T", "--loss_column=nll")
    printed = json_of(capsys, "fit", path, *columns, "--resamples=0", f"--out={tmp_path / 'f.json'}")
    assert printed["columns"] == {"n": "P", "d": "T", "c": "6ND", "loss": "nll"}
    (warning,) = (warning for warning in printed["warnings"] if warning["kind"] == "compute")
    assert "C = 6 N D" in warning["text"]
    assert (tmp_path / "f.json").exists()


def test_the_summary_of_a_fit_shows_the_prior_beside_the_runs(capsys, folder, tmp_path):
    capsys.readouterr()
    assert cli.main(["fit", str(folder / "runs.parquet"), "--resamples=20", f"--out={tmp_path / 'fit.json'}"]) == 0
    printed = capsys.readouterr().out
    check = laws.read_fit(tmp_path / "fit.json").report.model_average.surface
    assert "prior 'public'" in printed and printed.count("prior decides") == sum(
        row.prior_decides for row in check.coordinates
    )
    for row in check.coordinates:
        assert f"{row.prior:.3g} [{row.prior_low:.4g}, {row.prior_high:.4g}]" in printed, row.name


def test_predict(capsys, folder):
    run = json_of(capsys, "predict", folder / "fit.json", "--n=3e4", "--d=2e6")
    assert set(run) >= {"value", "interval", "level", "extrapolation", "warnings"}
    assert run["split"] is None
    assert set(run["extrapolation"]) == {"n", "d", "c"}
    best = json_of(capsys, "predict", folder / "fit.json", "--compute=1e12")
    assert set(best) >= {"value", "interval", "level", "extrapolation", "warnings", "inputs", "split"}
    assert set(best["split"]) >= {"n", "d", "n_interval", "d_interval"}


def test_freeze_and_score(capsys, folder, sweep, tmp_path):
    frozen = tmp_path / "prediction.json"
    json_of(capsys, "predict", folder / "fit.json", "--compute=1e12", f"--freeze={frozen}")
    at = json.loads(frozen.read_text())["created_at"]
    later = tmp_path / "later.parquet"
    sweep.assign(ended_at=at + 60).to_parquet(later)
    score = json_of(capsys, "score", frozen, later, f"--out={tmp_path / 'score.json'}")
    assert score["preregistered"] is True
    assert score["log"] == {"path": str(tmp_path / "scores.jsonl"), "scores": 1}
    assert (
        json_of(capsys, "calibration", tmp_path / "scores.jsonl")["forecasts"][0]["abs_rel_error"]
        == score["abs_rel_error"]
    )
    assert json.loads((tmp_path / "score.json").read_text())["abs_rel_error"] == score["abs_rel_error"]
    sweep.assign(ended_at=at - 60).to_parquet(later)
    assert "not preregistered" in refused(capsys, 1, "score", frozen, later)
    assert cli.main(["score", str(frozen), str(later)]) == 1


def test_plot(capsys, folder, tmp_path):
    printed = json_of(capsys, "plot", folder / "fit.json", f"--out={tmp_path / 'figures'}")
    assert {"isoflop.png", "learning_curves.svg"} <= {path.rsplit("/", 1)[1] for path in printed["figures"]}


def test_text_for_people(capsys, folder, tmp_path):
    runs, plain = str(folder / "runs.parquet"), str(tmp_path / "plain.json")
    for argv, part in (
        (["predict", str(folder / "fit.json"), "--compute=1e12"], "loss "),
        (["fit", runs, "--law=power_c", "--resamples=0", f"--out={plain}"], "L(C) = k / C^p"),
        (["plot", plain, f"--out={tmp_path}"], f"{tmp_path / 'residuals.png'}\n"),
    ):
        capsys.readouterr()
        assert cli.main(argv) == 0
        assert part in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["fit", "none.csv"], "none.csv: no such table"),
        (["fit"], "fit takes a table or a sweep directory"),
        (["fit", "RUNS", "--law=chinchila"], "did you mean 'chinchilla'"),
        (["fit", "RUNS", "--n_column=parms_total"], "did you mean 'params_total'? (--n_column=COLUMN)"),
        (["fit", "RUNS", "--where=budget<1"], "no row satisfies"),
        (["fit", "RUNS", "--where=budget<1.1e11 and seed==0"], "5 runs are too few"),
        (["fit", "RUNS", "--holdout_above=1e15"], "none would be held out"),
        (["fit", "RUNS", "--level=2"], "level must lie between 0 and 1, and is 2"),
        (["fit", "RUNS", "--target=-3"], "target must be positive"),
        (["fit", "RUNS", "--resamples=0", "--out=/dev/full/fit.json"], "/dev/full"),
        (["fit", "RUNS", "--objective=mean"], "objective"),
        (["fit", "RUNS", "--delta=0"], "delta must be positive"),
        (["fit", "RUNS", "--delta=inf"], "delta must be positive and finite"),
        (["fit", "RUNS", "--target=1e400"], "target must be positive FLOPs and finite, and is inf"),
        (["fit", "RUNS", "--holdout_above=0"], "holdout_above must be positive FLOPs and finite"),
        (["fit", "RUNS", "--holdout_above=nan"], "holdout_above must be positive FLOPs and finite"),
        (["fit", "RUNS", "--seed=-1"], "seed must not be negative"),
        (["fit", "RUNS", "--law=nothing_like_it"], "no law is called 'nothing_like_it'. Laws: chinchilla,"),
        (
            ["fit", "RUNS", "--settings=peak_rate"],
            "runs.parquet: no column 'peak_rate' of settings (--settings=COLUMN,...)",
        ),
        (["fit", "RUNS", "--best_by=lss"], "no column 'lss' for best_by; did you mean 'loss'?"),
        (["fit", "RUNS", "--where=__import__('os').getcwd() == '/'"], "is not of its language"),
        (["fit", "RUNS", "--where=status == completed"], "text stands in quotes: 'completed'"),
        (["fit", "RUNS", "--n_column=budget", "--d_column=seed"], "column 'seed' is zero"),
        (["fit", "RUNS", "--law=lr_step", "--loss_column=seed"], "column 'seed' is zero"),
        (["fit", "RUNS", "--resamples=-1"], "resamples"),
        (["predict", "FIT"], "a forecast needs either compute or"),
        (["predict", "FIT", "--n=1e4"], "--d"),
        (["predict", "RUNS", "--compute=1"], "not a readable fit"),
        (["score", "FIT", "RUNS"], "not a frozen prediction"),
        (["plot", "none.json"], "no such fit"),
    ],
)
def test_bad_input_is_one_line_and_code_two(capsys, folder, tmp_path, monkeypatch, argv, part):
    monkeypatch.chdir(tmp_path)
    names = {"RUNS": str(folder / "runs.parquet"), "FIT": str(folder / "fit.json")}
    assert part in refused(capsys, 2, *(names.get(word, word) for word in argv))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_directory_is_collected_first(capsys, folder, tmp_path, monkeypatch):
    import sweeps.collect

    monkeypatch.setattr(sweeps.collect, "collect", lambda path: folder / "runs.parquet")
    directory = tmp_path / "sweep"
    directory.mkdir()
    printed = json_of(capsys, "fit", directory, "--resamples=0")
    assert printed["n_runs"] == len(pd.read_parquet(folder / "runs.parquet"))
    assert (directory / "fit.json").exists()


def test_what_cannot_be_written_is_refused(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fit = str(folder / "fit.json")
    message = refused(capsys, 2, "compare", fit, fit, "--compute=1e11", f"--out={tmp_path / 'file' / 'out.json'}")
    assert str(tmp_path / "file" / "out.json") in message and "cannot be written" in message
