"""Fits read back from what their files state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from laws.base.errors import InputError
from laws.base.json_files import read_json
from laws.data.reading import is_table
from laws.model.forms import find, shipped
from laws.model.law import Law
from laws.results.report import FitReport, read_report
from laws.results.results import FitResult, declared_law, law_name


def from_report(report: FitReport, origin: str, law: str | Law | None = None) -> FitResult:
    """A fit from what its file states.

    Args:
        report: the content of the file.
        origin: how messages call it.
        law: the declaration, or ``file.py:NAME``, for a law that is not one of ours. A file that the content names is
            never executed.

    Raises:
        InputError: the fit is not of that law.
    """
    if law is None and report.declared_in is not None:
        raise InputError(
            f"{origin}: a fit of a law from a file of one's own ({report.declared_in}), which is not executed unasked: "
            "give it as law",
            flag=f"--law={report.declared_in}",
        )
    if law is None and shipped(law_name(report)) is None:
        raise InputError(
            f"{origin}: a fit of law '{report.law}', which is not known: give its declaration as law",
            flag="--law=FILE.py:NAME",
        )
    declared = declared_law(report, law)
    if set(declared.names) != set(report.params):
        raise InputError(
            f"{origin}: a fit of other constants than those of law '{declared.name}' ({', '.join(declared.names)})"
        )
    return FitResult(declared, report)


def read_fit(path: str | Path, law: str | Law | Iterable[str | Law] | None = None) -> FitResult:
    """A fit from ``fit.json``.

    Args:
        path: the file.
        law: the declaration, or ``file.py:NAME``; needed for a law that is not one of ours. Of several, the one that is
            called as the law of the fit.

    Raises:
        InputError: no such file, not a fit, or a fit of another version.
    """
    report = read_report(read_json(path, "fit", f"isoflop fit {path if is_table(path) else 'TABLE'}"), str(path))
    if law is not None and not isinstance(law, str | Law):
        law = next((declared for declared in map(find, law) if declared.name == report.law), None)
    return from_report(report, str(path), law)
