"""The report page of the demo's runs, with its interactive figures, as a file of the site."""

import functools
import shutil
import tempfile
from pathlib import Path

import laws
from isoflop.report import page as report_page, study

ROOT = Path(__file__).parents[1]
DATA = ROOT / "notebooks" / "data" / "demo"
NAME = "results/demo_report.html"
HELD_OUT = 1e12  # FLOPs of the budget that the fit does not see


@functools.cache
def page() -> str:
    """The report: the runs of the demo, of which the largest budget is held out of the fit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "demo"
        folder.mkdir()
        for file in ("runs.parquet", "curves.parquet"):
            shutil.copyfile(DATA / file, folder / file)
        runs = laws.load(DATA / "runs.parquet", where=f"budget < {HELD_OUT:g}")
        runs.fit("chinchilla", target=HELD_OUT).save(folder / "fit.json")
        return report_page.render(study.load(folder))


def figure() -> str:
    """The report inside a page, and a link to it alone."""
    file = Path(NAME).name
    return (
        f'<iframe class="report" src="{file}" title="Report of the demo" loading="lazy"></iframe>\n\n'
        f'<a href="{file}">The report alone</a>'
    )
