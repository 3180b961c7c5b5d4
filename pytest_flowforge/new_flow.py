"""A small flow with a test, written to a new folder, to begin with."""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path

from pytest_flowforge.errors import WorkflowError
from pytest_flowforge.wording import quoted

__all__ = ["TEMPLATES", "write"]

#: Their names, with what they are about.
TEMPLATES = {
    "etl": "rows from a CSV file into a database",
    "ml": "a model fitted on folds of data, and the best of them",
    "api": "records fetched from a web service, with retries",
}

#: What stands in the templates for the name of the flow.
_NAME = "NAME"


def write(name: str, template: str, folder: Path = Path()) -> tuple[Path, Path]:
    """Make a folder *name* in *folder* with the flow and the test of *template*; return both paths.

    Raises :class:`~pytest_flowforge.errors.WorkflowError` for a name that is no name of a module, and where something
    stands already, and :class:`OSError`.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        msg = f"{quoted(name)} is no name of a module: use letters, digits and _, as in daily_sales"
        raise WorkflowError(msg)
    place = folder / name
    if place.exists():
        msg = f"{place} is there already: use another name, or remove it"
        raise WorkflowError(msg)
    texts = files("pytest_flowforge") / "templates"
    place.mkdir(parents=True)
    paths = (place / f"flow_{name}.py", place / f"test_{name}.py")
    for path, part in zip(paths, ("flow", "test"), strict=True):
        text = (texts / f"{template}_{part}.txt").read_text(encoding="utf-8")
        path.write_text(text.replace(_NAME, name), encoding="utf-8")
    return paths
