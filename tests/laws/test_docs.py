"""Docstrings of laws: examples that run, and arguments that are described."""

import ast
import doctest
import importlib
import pkgutil
import re
import tempfile
from pathlib import Path
from types import FunctionType

import pytest

import laws

ROOT = Path(laws.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(ROOT)], "laws."))
MANY = 3  # arguments from which they are described in a section of their own


def examples(module: str) -> list[doctest.DocTest]:
    """The examples in the docstrings of a module."""
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("module", [*MODULES, "conditions.expressions"])
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what examples write is removed with it
    for test in examples(module):
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert result.failed == 0, test.name


@pytest.mark.parametrize("name", sorted(laws.__all__))
def test_what_laws_exports_has_an_example(name):
    exported = getattr(laws, name)
    if isinstance(exported, type) and issubclass(exported, Exception):
        assert exported.__doc__
    elif isinstance(exported, dict):
        (source,) = (module for module in MODULES if f"\n{name}:" in (ROOT / _file(module)).read_text())
        assert ">>>" in (importlib.import_module(source).__doc__ or "")
    else:
        methods = vars(exported).values() if isinstance(exported, type) else ()
        showing = (exported, *methods, *returning(name))
        assert any(">>>" in (getattr(item, "__doc__", None) or "") for item in showing), name


def returning(name: str) -> list[FunctionType]:
    """The exported functions that return a type, whose examples show it."""
    functions = [getattr(laws, other) for other in laws.__all__ if isinstance(getattr(laws, other), FunctionType)]
    return [item for item in functions if re.search(rf"\b{name}\b", str(item.__annotations__.get("return")))]


def _file(module: str) -> str:
    parts = module.split(".")[1:]
    package = Path(*parts, "__init__.py")
    return str(package if (ROOT / package).exists() else Path(*parts).with_suffix(".py"))


def undescribed(path: Path) -> list[str]:
    """Public functions of a file with three or more arguments and no ``Args:`` section."""
    out = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                given = [
                    argument.arg for argument in (*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs)
                ]
                many = len([name for name in given if name not in ("self", "cls")]) >= MANY
                if many and "Args:" not in (ast.get_docstring(child) or ""):
                    out.append(f"{path.relative_to(ROOT.parent)}:{child.lineno} {prefix}{child.name}")

    visit(ast.parse(path.read_text()), "")
    return out


def test_three_or_more_arguments_are_described():
    assert [line for path in sorted(ROOT.rglob("*.py")) for line in undescribed(path)] == []
