"""Modules of projects in a worker that lives longer than a run."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.dask_cluster.importing import ProjectModules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Project:
    """A folder with modules, and a worker that makes calls that import them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: tuple[str, ...] = (str(folder),)
        self.worker = ProjectModules()

    def write(self, name: str, text: str, *, age: float = 100.0) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        changed = time.time() - age
        os.utime(path, (changed, changed))

    def call(self, run: str, module: str) -> Any:
        """Return the module as a call of *run* imports it."""
        self.worker.begin(run, self.paths)
        found = import_module(module)
        self.worker.end()
        return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Project]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    project = _Project(tmp_path / "project")
    project.folder.mkdir()
    # What is there before counts as that of the worker.
    project.worker.begin("", ())
    yield project
    for name in [name for name, one in sys.modules.items() if str(tmp_path) in str(getattr(one, "__file__", ""))]:
        del sys.modules[name]


def test_a_module_is_as_it_is_when_a_run_begins(project: _Project) -> None:
    project.write("steps.py", "NUMBER = 1")
    before = project.call("1", "steps")
    project.write("steps.py", "NUMBER = 22", age=50.0)

    assert project.call("1", "steps") is before
    assert project.call("2", "steps").NUMBER == 22
    # There are as many modules as before.
    project.write("steps.py", "NUMBER = 333", age=25.0)
    assert project.call("3", "steps").NUMBER == 333


def test_those_that_import_it_are_new_too_and_others_stay(project: _Project) -> None:
    project.write("pack/__init__.py", "from .middle import base")
    project.write("pack/middle.py", "from . import deep\ndef base(): return deep.NUMBER")
    project.write("pack/deep.py", "NUMBER = 1")
    project.write("other.py", "")
    other = project.call("1", "other")
    assert project.call("1", "pack").base() == 1
    project.write("pack/deep.py", "NUMBER = 22", age=50.0)

    assert project.call("2", "pack").base() == 22
    assert project.call("2", "other") is other


def test_a_module_that_is_imported_as_an_attribute_of_its_package(project: _Project) -> None:
    project.write("box/__init__.py", "")
    project.write("box/deep.py", "NUMBER = 1")
    project.call("1", "box.deep")
    project.write("box/deep.py", "NUMBER = 22", age=50.0)
    project.worker.begin("2", project.paths)

    from box import deep  # type: ignore[import-not-found]  # noqa: PLC0415

    assert deep.NUMBER == 22


def test_what_runs_at_a_time_shares_its_modules(project: _Project) -> None:
    project.write("shapes.py", "class Shape: ...")
    shape = project.call("1", "shapes").Shape
    for run in ("2", "1", "3", "2"):
        assert project.call(run, "shapes").Shape is shape


def test_what_is_installed_below_the_project_stays(project: _Project, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ".venv/lib/python3/site-packages"
    project.write(".venv/pyvenv.cfg", "")
    project.write(f"{installed}/third_party.py", "NUMBER = 1")
    monkeypatch.syspath_prepend(str(project.folder / installed))
    before = project.call("1", "third_party")
    project.write(f"{installed}/third_party.py", "NUMBER = 22", age=50.0)

    assert project.call("2", "third_party") is before


def test_a_folder_whose_name_only_begins_alike_is_another_one(project: _Project) -> None:
    project.write("src/near.py", "NUMBER = 1")
    project.write("src2/far.py", "NUMBER = 1")
    project.paths = (str(project.folder / "src"), str(project.folder / "src2"))
    near, far = project.call("1", "near"), project.call("1", "far")
    project.write("src/near.py", "NUMBER = 22", age=50.0)
    project.write("src2/far.py", "NUMBER = 22", age=50.0)
    project.paths = project.paths[:1]

    assert project.call("2", "near") is not near
    assert project.call("2", "far") is far


def test_a_file_that_was_changed_after_it_was_imported_and_before_that_was_noted(project: _Project) -> None:
    project.write("quick.py", "NUMBER = 1")
    project.worker.begin("1", project.paths)
    import_module("quick")
    # While the call goes on.
    project.write("quick.py", "NUMBER = 22", age=0.0)
    project.worker.end()

    assert project.call("2", "quick").NUMBER == 22
    renewed = sys.modules["quick"]
    assert project.call("3", "quick") is not None
    assert sys.modules["quick"].NUMBER == renewed.NUMBER


def test_a_module_whose_file_has_gone(project: _Project) -> None:
    project.write("gone.py", "")
    project.call("1", "gone")
    (project.folder / "gone.py").unlink()

    with pytest.raises(ModuleNotFoundError):
        project.call("2", "gone")
