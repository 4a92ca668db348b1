"""`--config=FILE[:arg]`: loads a config file, completes it with the defaults, and makes every key a flag."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

import configs
from training.defaults import renamed
from training.errors import BadInput, nearest

# What a message suggests where there is no config.
START = "isoflop init study writes one to start from"


def load(spec: str) -> ConfigDict:
    """The completed config of `FILE[:arg]`: what `get_config(arg)` returns, laid over the defaults.

    Raises:
      BadInput: the file is missing or broken, has no `get_config`, or names an unknown key.
    """
    path, _, arg = spec.partition(":")
    if not Path(path).is_file():
        shipped = Path(configs.__file__).parent.parent / path
        if not (path.startswith("configs/") and shipped.is_file()):
            raise BadInput(f"no config file {path} ({START})")
        path = str(shipped)
    module_spec = importlib.util.spec_from_file_location("isoflop_config", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(arg) if arg else module.get_config()
    except BadInput:
        raise
    except AttributeError as error:
        raise BadInput(f"config {path}: {error}") from error
    except Exception as error:
        raise BadInput(f"config {path}: {type(error).__name__}: {error}") from error
    return complete(config, path)


def complete(config: ConfigDict, where: str = "config") -> ConfigDict:
    """A run or sweep config laid over its defaults; a sweep is told by its `design`."""
    if "design" in config:
        from sweeps.plan import complete as complete_sweep

        return complete_sweep(config, where)
    from training.config import complete as complete_run

    return complete_run(config, where)


def define_config(values: absl_flags.FlagValues, argv: list[str]) -> list[str]:
    """Define `--config` and its keys on `values` from the file that `argv` names; returns `argv` without the file."""
    spec, rest = _take(argv)
    if spec is None:
        raise BadInput(f"--config=FILE[:arg] is missing ({START})")
    words = [word for word in rest if word.lstrip("-").startswith("config.")]
    absl_flags.DEFINE_multi_string("config_words", [f"--config={spec}", *words], "As given.", flag_values=values)
    # The flag looks for its overrides in this list, not in what absl parses.
    config = load(spec)
    rest = _opened(config, rest)
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=rest)
    except (AttributeError, KeyError):
        raise BadInput(_unknown_key(config, rest)) from None
    return rest


def _opened(config: ConfigDict, argv: list[str]) -> list[str]:
    """`argv` without its `--config.KEY=None`: these keys, open by default, are open again whatever the file gives.

    Raises:
      BadInput: the key is one that always has a value.
    """
    run, prefix = (config.base, "config.base.") if "design" in config else (config, "config.")
    usual, rest = complete(ConfigDict({"task": run.task})), []
    for word in argv:
        name, _, value = word.lstrip("-").partition("=")
        *sections, key = name.removeprefix(prefix).split(".")
        sections_of_run, default = (functools.reduce(_section, sections, top) for top in (run, usual))
        if not (name.startswith(prefix) and value == "None" and key in sections_of_run):
            rest.append(word)
        elif default[key] is None:
            sections_of_run[key] = None
        else:
            raise BadInput(f"--{name}: always has a value (by default {default[key]!r}), and cannot be None")
    return rest


def _section(config: Any, key: str) -> Any:
    section = config.get(key) if isinstance(config, ConfigDict) else None
    return section if isinstance(section, ConfigDict) else ConfigDict()


def _unknown_key(config: ConfigDict, argv: list[str]) -> str:
    """What to say of the first flag in `argv` that names a key which the config does not have."""
    for word in argv:
        name = word.lstrip("-").partition("=")[0]
        section: Any = config
        for key in name.split(".")[1:] if name.startswith("config.") else ():
            if not isinstance(section, ConfigDict) or key not in section:
                sections = name.removeprefix("config.")
                prefix = "base." if sections.startswith("base.") else ""
                if new := renamed(sections.removeprefix(prefix)):
                    return f"--{name}: is now called --config.{prefix}{new}"
                known = section.keys() if isinstance(section, ConfigDict) else ()
                return f"--{name}: unknown key {key!r}{nearest(key, known)}"
            section = section[key]
    return "--config: an override names an unknown key"


def _take(argv: list[str]) -> tuple[str | None, list[str]]:
    rest: list[Any] = []
    spec = None
    words = iter(argv)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            spec = value if equals else next(words, None)
        else:
            rest.append(word)
    return spec, rest
