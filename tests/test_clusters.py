"""The recipes for clusters: their commands are ones that this version takes, and their manifests agree with themselves.

No cluster is asked: docs/clusters.md says what was tried on one.
"""

import re
import shlex
import signal
import tomllib
from pathlib import Path

import pytest
import yaml
from absl import flags as absl_flags

from isoflop.cli import COMMANDS, module_of
from isoflop.commands._sweep_flags import launch_options
from isoflop.config_file import define_config
from sweeps import launch
from sweeps.launch import local, ray, slurm
from sweeps.launch.launcher import parse_options

ROOT = Path(__file__).parent.parent
RECIPES = (ROOT / "docs" / "clusters.md").read_text()
MANIFESTS = {file.name: list(yaml.safe_load_all(file.read_text())) for file in sorted(ROOT.glob("docs/gke/*.yaml"))}
TEXT = "\n".join(re.findall(r"```\n(.*?)```", RECIPES, re.S)).replace("\\\n", " ")


def job(name: str) -> dict:
    return next(part for part in MANIFESTS[name] if part["kind"] == "Job")


def container(name: str) -> dict:
    (found,) = job(name)["spec"]["template"]["spec"]["containers"]
    return found


def commands() -> list[list[str]]:
    lines = re.findall(
        r"isoflop [a-z]+ (?:--|/)[^\n\"`&|]*", f"{TEXT}\n" + "\n".join(re.findall(r"`([^`\n]+)`", RECIPES))
    )
    written = [shlex.split(line.partition("  #")[0]) for line in lines]
    manifests = [[*container(name)["command"], *container(name)["args"]] for name in MANIFESTS]
    return written + [[word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in words] for words in manifests]


def flags_of(words: list[str]) -> absl_flags.FlagValues:
    """The flags of a command line, read as the command itself reads them."""
    command, argv = module_of(words[1]), words[2:]
    values = absl_flags.FlagValues()
    command.define(values)
    if getattr(command, "CONFIG", False):
        argv = define_config(values, argv)
    values([words[1], *argv])
    return values


def test_there_are_recipes_to_check():
    assert len(commands()) >= 14 and set(MANIFESTS) == {"sweep.yaml", "run.yaml", "tpu.yaml"}
    assert {words[1] for words in commands()} >= {"sweep", "train", "study", "status", "collect", "prepare"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_is_one_that_this_version_takes(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words[0] == "isoflop" and words[1] in COMMANDS
    values = flags_of(words)
    if "launcher" in values:
        assert launch.launcher(values.launcher)
        kinds = {"slurm": slurm.KINDS, "ray": ray.KINDS}.get(values.launcher, {})
        parse_options(launch_options(values).launcher_options, kinds)


def test_what_is_installed_are_extras_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    dockerfile = (ROOT / "docs" / "gke" / "Dockerfile").read_text()
    asked = [name for names in re.findall(r"'\.\[([\w,]+)\]'", TEXT) for name in names.split(",")]
    asked += re.findall(r"EXTRA=(\w+)", dockerfile)
    assert {"cuda", "tpu", "slurm", "ray"} <= set(asked) <= set(extras)


def test_the_recipes_name_files_that_exist():
    for name in re.findall(r"(?:docs|tests|configs)/[\w/.]+\.(?:py|yaml)|docs/gke/Dockerfile", RECIPES):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_has_the_time_to_save_and_is_replaced_after_it(name):
    spec = job(name)["spec"]
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > local.GRACE
    assert pod["restartPolicy"] == "Never" and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    codes = [rule["onExitCodes"]["values"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert all(values == [128 + signal.SIGTERM] for values in codes)
    mounted = [mount["mountPath"] for mount in container(name)["volumeMounts"]]
    workdir = next(word for word in container(name)["args"] if word.startswith("--workdir="))
    assert workdir.removeprefix("--workdir=").startswith(f"{mounted[0]}/")


@pytest.mark.parametrize("name", ["run.yaml", "tpu.yaml"])
def test_the_processes_of_one_run_find_each_other(name):
    service = next(part for part in MANIFESTS[name] if part["kind"] == "Service")
    spec, own = job(name)["spec"], job(name)["metadata"]["name"]
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"] == own
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": own}
    values = flags_of(
        ["isoflop", "train", *[w.replace("$(JOB_COMPLETION_INDEX)", "0") for w in container(name)["args"]]]
    )
    devices = spec["completions"] * next(iter(container(name)["resources"]["limits"].values()))
    assert devices % values.config.mesh.fsdp == 0 and values.config.mesh.data == -1
    if name == "run.yaml":
        assert values.num_processes == spec["completions"]
        host, _, port = values.coordinator.partition(":")
        assert host == f"{own}-0.{own}" and container(name)["ports"] == [{"containerPort": int(port)}]
    else:
        assert values.distributed == "tpu"
