"""Packages that one feature needs, each in an extra of ours: which, and the line that says what to install."""

import importlib.util

from training.errors import BadInput

# Name in an import -> extra of pyproject.toml.
EXTRA_OF = {
    "PIL": "vision",
    "flatbuffers": "export",
    "fontTools": "vision",
    "jinja2": "figures",
    "markupsafe": "figures",
    "matplotlib": "figures",
    "plotly": "figures",
    "ray": "ray",
    "sacrebleu": "text",
    "safetensors": "export",
    "submitit": "slurm",
    "tensorboardX": "tensorboard",
    "tokenizers": "text",
    "wandb": "wandb",
    "zstandard": "text",
}


def require(feature: str, *modules: str) -> None:
    """Refuse a feature whose packages are not installed.

    Args:
      feature: what asks for them, as the message begins.
      modules: their names in an import, keys of `EXTRA_OF`.

    Raises:
      BadInput: names the first that is missing, and the extra to install.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"{feature}: {missing(module)}")


def missing(module: str) -> str:
    """What to say of a package that is not installed."""
    return f"{module} is not installed: pip install 'isoflop[{EXTRA_OF[module]}]'"


def explained(error: BaseException) -> str | None:
    """The line for an import that failed for want of a package of an extra; None for any other error."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    return missing(module) if module in EXTRA_OF else None
