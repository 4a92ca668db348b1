"""`isoflop completion`: a script with which bash, zsh or fish completes commands and flags.

Every command's flags are read from its own declaration, so that the script holds what `--help` shows.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from absl import flags as absl_flags

from isoflop import cli
from isoflop.cli import Output
from training.errors import BadInput, nearest

EXAMPLE = """
isoflop completion bash > ~/.local/share/bash-completion/completions/isoflop
isoflop completion zsh > ~/.zfunc/_isoflop      # a folder of $fpath
isoflop completion fish > ~/.config/fish/completions/isoflop.fish
"""


class Flag(NamedTuple):
    """A flag of a command: its name, its one-line help, the values it may take, and whether it takes one at all."""

    name: str
    help: str
    values: tuple[str, ...]
    boolean: bool


def define(flags: absl_flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Print the script of a shell."""
    if len(args) != 1:
        raise BadInput(f"completion takes a shell: {', '.join(SHELLS)}")
    (shell,) = args
    if shell not in SHELLS:
        raise BadInput(f"completion: no shell {shell!r}{nearest(shell, SHELLS)} (known: {', '.join(SHELLS)})")
    script = SHELLS[shell]({name: flags_of(name) for name in cli.COMMANDS})
    return Output({"shell": shell, "script": script}, script)


def flags_of(name: str) -> list[Flag]:
    """The flags of a command, by name."""
    command, values = cli.module_of(name), absl_flags.FlagValues()
    cli.define_common(values)
    command.define(values)
    listed = []
    for flag_name in sorted(set(values)):
        flag = values[flag_name]
        text = re.sub(r"\s+", " ", flag.help or "").strip()
        listed.append(Flag(flag_name, text, tuple(getattr(flag.parser, "enum_values", None) or ()), bool(flag.boolean)))
    if getattr(command, "CONFIG", False):
        listed.append(Flag("config", "FILE[:arg], the config; every key is a flag (--config.seed=1)", (), False))
    return listed


def _words(flags: list[Flag]) -> list[str]:
    """Each flag as it is typed: with "=" where it takes a value, and once a value where these are known."""
    words = []
    for flag in flags:
        words += [f"--{flag.name}={value}" for value in flag.values]
        words += [] if flag.values else [f"--{flag.name}" + ("" if flag.boolean else "=")]
        words += [f"--no{flag.name}"] if flag.boolean else []
    return words


def _bash(commands: dict[str, list[Flag]]) -> str:
    cases = "\n".join(f"    {name}) words='{' '.join(_words(flags))}' ;;" for name, flags in commands.items())
    return f"""# Completion of isoflop for bash.
_isoflop() {{
  local current line words
  # The line is taken in words between spaces: bash itself parts them at "=" too.
  line="${{COMP_LINE:0:COMP_POINT}}"
  current="${{line##*[[:space:]]}}"
  local prefix=""
  [[ "$current" == *=* ]] && prefix="${{current%%=*}}="
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$current"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) return ;;
  esac
  if [[ "$current" != -* ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$current"))
    return
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ -n "$prefix" ]]; then
    if (( ${{#COMPREPLY[@]}} == 0 )) || [[ "${{COMPREPLY[0]}}" == "$prefix" ]]; then
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "${{current#*=}}"))
    else
      COMPREPLY=("${{COMPREPLY[@]#"$prefix"}}")
    fi
  elif (( ${{#COMPREPLY[@]}} == 1 )) && [[ "${{COMPREPLY[0]}}" == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
}}
complete -F _isoflop isoflop"""


def _zsh(commands: dict[str, list[Flag]]) -> str:
    quoted = lambda text: re.sub(r"[\[\]:'\\`$]", "", text)[:100]

    def spec(flag: Flag) -> str:
        if flag.boolean:
            return f"'(--no{flag.name})--{flag.name}[{quoted(flag.help)}]' '(--{flag.name})--no{flag.name}'"
        kind = f"({' '.join(flag.values)})" if flag.values else "_files"
        return f"'--{flag.name}=[{quoted(flag.help)}]:{flag.name}:{kind}'"

    described = "\n".join(f"    '{name}:{quoted(cli.COMMANDS[name])}'" for name in commands)
    cases = "\n".join(
        f"    {name}) _arguments {' '.join(map(spec, flags))} '*:file:_files' ;;" for name, flags in commands.items()
    )
    return f"""#compdef isoflop
# Completion of isoflop for zsh.
_isoflop() {{
  local -a commands
  commands=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local name="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$name" in
{cases}
  esac
}}
if [[ "$funcstack[1]" == _isoflop ]]; then
  _isoflop "$@"
else
  compdef _isoflop isoflop
fi"""


def _fish(commands: dict[str, list[Flag]]) -> str:
    quoted = lambda text: text.replace("\\", "\\\\").replace("'", "\\'")
    lines = ["# Completion of isoflop for fish."]
    for name in commands:
        about = quoted(cli.COMMANDS[name])
        lines.append(f"complete -c isoflop -n __fish_use_subcommand -f -a {name} -d '{about}'")
    for name, flags in commands.items():
        begun = f"complete -c isoflop -n '__fish_seen_subcommand_from {name}'"
        for flag in flags:
            takes = "" if flag.boolean else f" -x -a '{' '.join(flag.values)}'" if flag.values else " -r"
            lines.append(f"{begun} -l {flag.name}{takes} -d '{quoted(flag.help)}'")
            lines += [f"{begun} -l no{flag.name}"] if flag.boolean else []
    return "\n".join(lines)


SHELLS: dict[str, Callable[[dict[str, list[Flag]]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
