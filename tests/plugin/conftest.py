"""Running flows the way a user does: `pytest --flowforge` in a process of its own, in a folder of its own."""

from __future__ import annotations

import re
import sys
from textwrap import dedent
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: The plugin and what it depends on. Whatever else is installed here is no part of a story that does not name it.
_PLUGINS = ("pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout")


class Flow(Protocol):
    """What the fixture ``flow`` is: a function that writes files and runs them."""

    def __call__(
        self,
        files: str | Mapping[str, str],
        *args: str,
        plugins: Sequence[str] = (),
        flowforge: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> pytest.RunResult: ...


@pytest.fixture
def flow(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Write *files* into ``pytester.path`` and run ``pytest --flowforge *args`` there, in a subprocess.

    *files* is the source of ``flow_it.py``, or a dict of sources by path; an empty one runs what is there already.
    Only our plugin, pytest-xdist, pytest-timeout and the modules in *plugins* are loaded.
    ``flowforge=False`` leaves the option out.
    A run that takes longer than *timeout* seconds is killed, and the test fails.
    """
    # With the plugins of the environment, each run would take longer and depend on what is installed.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # Nor is the key of whoever runs the tests used, or made.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.delenv("FLOWFORGE_KEY", raising=False)
    # Python overlooks an edit within a second where it has compiled the file before.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def flow(
        files: str | Mapping[str, str],
        *args: str,
        plugins: Sequence[str] = (),
        flowforge: bool = True,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> pytest.RunResult:
        for name, source in ({"flow_it.py": files} if isinstance(files, str) else files).items():
            path = pytester.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(source), encoding="utf-8")
        monkeypatch.setenv("PYTEST_PLUGINS", ",".join([*_PLUGINS, *plugins]))
        command = [sys.executable, "-m", "pytest", *(["--flowforge"] if flowforge else []), *args]
        given = pytester.CLOSE_STDIN if stdin is None else stdin.encode()
        return pytester.run(*command, timeout=timeout, stdin=given)

    return flow


_WORD = re.compile(r"^\S+::flow_(\S+) ([A-Z]+)", re.MULTILINE)


def words(result: pytest.RunResult) -> list[tuple[str, str]]:
    """The task and the word of each line that ``-v`` shows, in order: ``("extract", "PASSED")``."""
    return _WORD.findall(result.stdout.str())


@pytest.fixture
def log(pytester: pytest.Pytester) -> Callable[[], list[str]]:
    """Flows may say ``from log import log``, and ``log("a line")``; this returns the lines so far, and forgets them."""
    lines = pytester.path / "log.txt"
    source = f"""
        def log(line):
            with open({str(lines)!r}, "a", encoding="utf-8") as file:
                file.write(f"{{line}}\\n")
    """
    pytester.path.joinpath("log.py").write_text(dedent(source), encoding="utf-8")
    lines.touch()

    def read() -> list[str]:
        found = lines.read_text(encoding="utf-8").splitlines()
        lines.write_text("", encoding="utf-8")
        return found

    return read
