"""The first minutes with the command line: configs to start from, completion, extras that are missing, next commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop import cli, config_file
from sweeps import plan as plans
from training.config import resolve


def run(capsys, *argv):
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("kind", ["run", "sweep", "study"])
def test_a_config_to_start_from_runs_as_it_stands_and_is_never_overwritten(capsys, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "init", kind)
    path = Path(f"{kind}.py")
    assert code == 0 and f"isoflop plan --config={path}" in out
    assert "configs/start" not in path.read_text() and f"--config={path}" in path.read_text()
    config = config_file.load(str(path))
    if kind == "run":
        assert resolve(config).derived.steps > 100
    else:
        planned = plans.plan(config)
        assert len(planned.points) >= 9 and not planned.refused
    path.write_text("# mine\n")
    code, _, err = run(capsys, "init", kind)
    assert code == 2 and "is there already" in err and path.read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["init", "stdy"], "no config 'stdy'; did you mean 'study'?"),
        (["init"], "init takes study, sweep, run"),
        (["init", "run", "run.txt"], "run.txt does not end in .py"),
        (["completion", "bsh"], "no shell 'bsh'; did you mean 'bash'?"),
        (["completion"], "completion takes a shell: bash, zsh, fish"),
        (["predict", "none.json", "--compute=1e20"], "isoflop fit TABLE makes one"),
        (["predict", "runs.csv", "--compute=1e20"], "isoflop fit runs.csv makes one"),
        (["score", "none.json", "runs.csv"], "isoflop predict fit.json --compute=FLOPS --freeze=prediction.json"),
        (["status", "none"], "isoflop sweep --config=FILE --workdir=none makes one"),
        (["evaluate", "none"], "isoflop train --config=FILE --workdir=none makes one"),
        (["report", "."], "isoflop study --config=FILE --workdir=. makes one"),
        (["plan"], "isoflop init study"),
    ],
)
def test_an_error_says_what_to_do_next(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("runs.csv").write_text("params,tokens,loss\n1e6,1e8,3.0\n")
    code, _, err = run(capsys, *argv)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_bash_completes_commands_flags_values_and_files(capsys, tmp_path):
    _, script, _ = run(capsys, "completion", "bash")
    (tmp_path / "isoflop.bash").write_text(script)
    (tmp_path / "yours.csv").touch()
    lines = [
        "isoflop stu",
        "isoflop fit --prior=w",
        "isoflop status --wat",
        "isoflop fit --out=yo",
        "isoflop plan --conf",
    ]
    driver = """
    source isoflop.bash
    for line in "$@"; do
      COMP_LINE="$line"; COMP_POINT=${#line}; read -ra COMP_WORDS <<< "$line"; COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
      COMPREPLY=(); _isoflop; echo "${COMPREPLY[*]}"
    done"""
    done = subprocess.run(["bash", "-c", driver, "_", *lines], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["study", "weak", "--watch", "yours.csv", "--config="]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_names_every_command_and_flag(capsys, tmp_path, shell):
    code, script, _ = run(capsys, "completion", shell)
    assert code == 0 and all(name in script for name in (*cli.COMMANDS, "holdout_above", "launcher_option"))
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_a_missing_extra_is_one_line_that_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)  # as if it were not installed
    config = Path(__file__).parents[2] / "configs" / "lm" / "demo.py"
    code, _, err = run(capsys, "study", f"--config={config}", f"--workdir={tmp_path / 'study'}")
    assert code == 2 and err.splitlines() == [
        "isoflop: study: its figures and report: plotly is not installed: pip install 'isoflop[figures]'"
    ]
    assert not (tmp_path / "study").exists()
    (tmp_path / "fit.json").write_text("{}")
    for module in [name for name in sys.modules if name.startswith("isoflop.report")]:
        monkeypatch.delitem(sys.modules, module)
    code, _, err = run(capsys, "report", tmp_path)
    assert code == 2 and err == "isoflop: plotly is not installed: pip install 'isoflop[figures]'\n"
