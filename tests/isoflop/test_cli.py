"""The command line: one clear line and an exit code for whatever is wrong; help, JSON, versions."""

import errno
import json
import os
import shlex
import signal
from pathlib import Path

import pytest

from isoflop import cli

SMALL = "--config=configs/lm/small.py:8000"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(capsys, *argv):
    code = cli.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out, err


def line(capsys, *argv):
    """The one line of an error."""
    code, _, err = run(capsys, *argv)
    lines = err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("isoflop: "), err
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["plan"], "--config=FILE[:arg] is missing"),
        (["plan", "--config=configs/lm/smal.py"], "no config file configs/lm/smal.py"),
        (["plan", SMALL, "--config.model.widht=3"], "unknown key 'widht'; did you mean 'width'?"),
        (["plan", SMALL, "--config.modle.width=3"], "unknown key 'modle'; did you mean 'model'?"),
        (["plan", SMALL, "--config.model.width=wide"], "--config.model.width=wide"),
        (
            ["train", SMALL, "--workdir=gs://bucket/run"],
            "--workdir: gs://bucket/run is object storage, which is neither",
        ),
        (
            ["train", SMALL, "--workdir=x", "--config.teacher.run=s3://b/t"],
            "--config.teacher.run: s3://b/t is object stor",
        ),
        (["evaluate", "s3://bucket/run"], "operand: s3://bucket/run is object storage"),
        (["plan", SMALL, "--config.model.size=100"], "below the smallest shape"),
        (["plan", SMALL, "--config.duration.flops=1e9"], "got flops, tokens_per_param"),
        (["plan", SMALL, "--config.optimizer.name=adamx"], "no 'adamx'; did you mean 'adam"),
        (["train", SMALL], "--workdir"),
        (["fit", "nowhere.csv"], "nowhere.csv"),
        (["plan", SMALL, "--jsn"], "jsn"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, argv, message):
    assert message in line(capsys, *argv)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.mesh.data=16", "wants 16 devices, there are 8"),
        ("--config.mesh.data=3", "batch_size: 4 is not divisible by 3"),
        ("--config.data.corpus=nowhere --config.mesh.data=1", "nowhere"),
    ],
)
def test_a_run_that_cannot_be_leaves_nothing_half_written(capsys, tmp_path, override, message):
    work = tmp_path / "run"
    assert message in line(capsys, "train", SMALL, f"--workdir={work}", "--config.batch_size=4", *override.split())
    assert not list(work.glob("*.json")) and not (work / "metrics.jsonl").exists()


def test_configs_say_where_they_are_broken(capsys, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(arg=''):\n    return 1 / 0\n")
    assert "broken.py: ZeroDivisionError" in line(capsys, "plan", f"--config={broken}")
    broken.write_text("x = 1\n")
    assert "broken.py" in line(capsys, "plan", f"--config={broken}")
    broken.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'sede': 1})\n"
    )
    assert "unknown key 'sede'; did you mean 'seed'?" in line(capsys, "plan", f"--config={broken}")


def test_json_is_json_and_help_has_an_example(capsys):
    code, out, _ = run(capsys, "plan", SMALL, "--nomemory", "--json")
    assert code == 0 and json.loads(out)
    for name in cli.COMMANDS:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0 and f"isoflop {name}" in out and "example:" in out
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize(("name", "shown"), [("[bold]x[/y]", "[bold]x[/y]"), ("a:smile:b", "a:smile:b")])
def test_names_of_files_and_columns_are_shown_as_they_are(capsys, tmp_path, name, shown):
    sizes, data = [1e7, 3e7, 1e8, 3e8], [1e9, 3e9, 1e10, 3e10]
    rows = [f"{n},{d},{1.7 + 406 / n**0.34 + 411 / d**0.28}" for n in sizes for d in data]
    table = tmp_path / "runs.csv"
    table.write_text("\n".join([f"n,d,{name}", *rows]))
    flags = ("--n_column=n", "--d_column=d", f"--loss_column={name}", "--resamples=0", f"--out={tmp_path / 'fit.json'}")
    code, out, err = run(capsys, "fit", table, *flags)
    assert code == 0 and not err and shown in out


def test_cells_of_a_table_reach_the_terminal_harmlessly(capsys, tmp_path):
    table = tmp_path / "runs.csv"
    table.write_text('n,d,loss\n1e8,1e9,3.1\n1e8,1e10,"\x1b[31mred\x07\nline"\n')
    message = line(capsys, "fit", table, "--n_column=n", "--d_column=d")
    assert message.isprintable() and "row 2" in message


@pytest.mark.parametrize("flag", ["--freeze", "-freeze"])
def test_a_flag_without_its_value_does_not_take_the_next_flag_for_one(capsys, monkeypatch, tmp_path, flag):
    monkeypatch.chdir(tmp_path)
    message = line(capsys, "predict", "fit.json", flag, "--compute=1e12")
    assert "--freeze takes a value, and is followed by --compute=1e12" in message
    assert not list(tmp_path.iterdir())


def test_doctor_finds_no_problem_here(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert code == 0 and report["problems"] == [] and report["backend"] == "cpu" and report["num_devices"] == 8


def test_doctor_names_a_package_that_belongs_to_somebody_else(monkeypatch, tmp_path):
    import importlib.util

    from isoflop.commands import doctor

    (tmp_path / "lm.py").write_text("")
    real = importlib.util.find_spec
    foreign = importlib.util.spec_from_file_location("lm", tmp_path / "lm" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: foreign if name == "lm" else real(name))
    assert [line for line in doctor.foreign_packages() if "'lm'" in line and str(tmp_path) in line]


def test_a_full_disk_is_one_line_and_keeps_what_was_there(monkeypatch, tmp_path):
    from training import files

    path = tmp_path / "result.json"
    files.write_json(path, {"kept": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(path, {"lost": 2})
    assert json.loads(path.read_text()) == {"kept": 1} and [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert cli._one_line(caught.value) == (2, f"No space left on device: {path}")


def test_interruptions_and_bugs_have_codes_of_their_own(capsys, monkeypatch):
    from isoflop.commands import doctor

    def interrupted(flags, args):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    assert cli.main(["doctor"]) == 130
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(doctor, "run", lambda flags, args: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["doctor"]) == 143 and signal.getsignal(signal.SIGTERM) == handler
    assert "stopped by SIGTERM; the same command continues" in capsys.readouterr().err

    def bug(flags, args):
        raise RuntimeError("surprise")

    monkeypatch.setattr(doctor, "run", bug)
    assert cli.main(["doctor"]) == 1
    assert "RuntimeError: surprise (--traceback shows where)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [("--config.mesh.data=64", "wants 64 devices"), ("--config.batch_size=3 --config.mesh.data=2", "batch")],
)
def test_a_plan_refuses_what_the_machine_cannot_do(capsys, override, message):
    """It compiles in a process of its own, whose refusals are its own: one line, exit code 2."""
    assert message in line(capsys, "plan", SMALL, *override.split())


@pytest.mark.slow
def test_the_examples_of_commands_resolve(capsys):
    """Every config that an example of `--help` names, with the overrides it gives, is one that can be run."""
    seen = set()
    for name in cli.COMMANDS:
        command = cli.module_of(name)
        for example in command.EXAMPLE.strip().splitlines():
            words = tuple(word for word in shlex.split(example, comments=True) if word.startswith("--config"))
            if words and words not in seen:
                code, _, err = run(capsys, "plan", *words, "--nomemory")
                assert code == 0, f"{example}: {err}"
                seen.add(words)
    assert len(seen) >= 4


def test_none_opens_what_the_file_gives(capsys):
    opened = ["--config.model.size=None", "--config.model.width=64", "--config.duration.tokens_per_param=None"]
    code, out, _ = run(capsys, "plan", SMALL, *opened, "--config.duration.flops=1e11", "--nomemory", "--json")
    assert code == 0 and json.loads(out)["points"][0]["flops_exact"] == pytest.approx(1e11, rel=0.01)
    said = line(capsys, "plan", SMALL, "--config.gradient_accumulation_steps=None", "--nomemory")
    assert "--config.gradient_accumulation_steps: always has a value (by default 1)" in said
