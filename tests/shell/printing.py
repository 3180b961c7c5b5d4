"""Small projects whose functions have their digests taken, here and in other processes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.codeprint import CodePrinter
from tests.places import python_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from pytest_flowforge.codeprint import CodeDigest

__all__ = ["Files", "imported", "pick", "printed", "printed_elsewhere", "run_elsewhere", "write"]

#: Path below a folder -> content.
Files: TypeAlias = "dict[str, str]"

_PRINTING = """
import json, sys
from pathlib import Path

from pytest_flowforge.codeprint import CodePrinter
from tests.shell.printing import imported, pick

folder, *names = sys.argv[1:]
with imported(Path(folder), "flow_etl") as module:
    printer = CodePrinter([Path(folder)])
    told = {name: printer.digest(pick(module, name)) for name in names}
    print(json.dumps({name: [one.value, dict(one.parts)] for name, one in told.items()}))
"""


def write(folder: Path, files: Files) -> Path:
    """Write *files* below *folder* and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


@contextmanager
def imported(folder: Path, name: str) -> Iterator[ModuleType]:
    """The module *name*, imported from *folder* as it is now; forgotten afterwards, with all it imported."""
    before = set(sys.modules)
    without_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = without_bytecode
        for other in set(sys.modules) - before:
            place = getattr(sys.modules[other], "__file__", None) or next(iter(_search_path(sys.modules[other])), "")
            if place.startswith(str(folder)):
                del sys.modules[other]


def _search_path(module: ModuleType) -> list[str]:
    return list(getattr(module, "__path__", []))


def pick(module: ModuleType, name: str) -> Any:
    """What *name* says in *module*; a method as pytest would call it, bound to a new instance."""
    owner, _, method = name.rpartition(".")
    return getattr(getattr(module, owner)(), method) if owner else getattr(module, method)


def printed(folder: Path, name: str = "flow_task") -> CodeDigest:
    """The digest of *name* in the file ``flow_etl.py`` of *folder*, by a new printer."""
    with imported(folder, "flow_etl") as module:
        told = CodePrinter([folder]).digest(pick(module, name))
        # Put together while the files are as they are now.
        dict(told.parts)
        return told


def printed_elsewhere(folder: Path, *names: str, seed: str, cwd: Path) -> dict[str, Any]:
    """What another process says: name -> [digest, parts]."""
    return run_elsewhere(_PRINTING, str(folder), *names, seed=seed, cwd=cwd)


def run_elsewhere(script: str, *arguments: str, seed: str, cwd: Path) -> dict[str, Any]:
    """Run *script* in a new process with this hash seed and working directory; return the JSON it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTEST"))}
    environment |= {"PYTHONHASHSEED": seed, "PYTHONPATH": python_path(*filter(None, sys.path))}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told
