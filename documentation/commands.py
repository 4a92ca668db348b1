"""The reference page of the commands: each from its own flags and examples."""

from absl import flags as absl_flags

from documentation.markdown import code, table
from isoflop.cli import COMMANDS, module_of

ON_EVERY_COMMAND = ("json", "traceback")


def flags_of(name: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every flag of a command, but for those of all commands."""
    values = absl_flags.FlagValues()
    module_of(name).define(values)
    found = [values[flag] for flag in sorted(set(values)) if flag not in ON_EVERY_COMMAND]
    return [(flag.name, "" if flag.default in (None, "[]") else str(flag.default), flag.help or "") for flag in found]


def section(name: str) -> str:
    """What `isoflop NAME --help` says, as Markdown."""
    command = module_of(name)
    rows = [(f"`--{flag}`", code(default), meaning) for flag, default, meaning in flags_of(name)]
    if getattr(command, "CONFIG", False):
        rows.insert(
            0,
            ("`--config`", "", "FILE[:arg]: the config; every key is a flag, as in `--config.seed=1`; None opens one"),
        )
    parts = [f"## isoflop {name}", f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."]
    parts.append(f'```text title="examples"\n{command.EXAMPLE.strip()}\n```')
    return "\n\n".join([*parts, *([table(("flag", "default", "meaning"), rows)] if rows else [])])


def page() -> str:
    """All commands."""
    return "\n\n".join(section(name) for name in COMMANDS)
