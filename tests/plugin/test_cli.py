"""The command flowforge: what it makes of its words, and what a user sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_flowforge.cli import main
from pytest_flowforge.errors import WorkflowError
from pytest_flowforge.new_flow import TEMPLATES, write

#: As long as the whole command may take.
PATIENCE = 120


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("run", "pytest --flowforge"),
        ("run flows/ -v", "pytest --flowforge -v flows/"),
        ("run a.py b.py -qq", "pytest --flowforge -q -q a.py b.py"),
        (
            "run --executor process --workers auto --checkpoint runs --resume",
            "pytest --flowforge --ff-checkpoint=runs --ff-resume --ff-executor process --ff-workers auto",
        ),
        ("run --resume --run 7 flows", "pytest --flowforge --ff-resume --ff-run 7 flows"),
        ("run --dry-run --format json", "pytest --flowforge --ff-format json --ff-dry-run"),
        ("run flows -- -k train --pdb", "pytest --flowforge flows -k train --pdb"),
        ("list --format json flows", "pytest --flowforge --ff-list --ff-format json flows"),
        ("validate flows", "pytest --flowforge --ff-validate flows"),
        ("status --run 7", "pytest --flowforge --ff-status --ff-run 7"),
        ("history -v", "pytest --flowforge --ff-history -v"),
    ],
)
def test_a_command_is_one_of_pytest(words: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    own, dashes, behind = words.partition(" --")
    given = own.split() + ["--show-command"] + (f"{dashes}{behind}".split() if dashes else [])
    assert main(given) == 0
    assert capsys.readouterr().out == f"{command}\n"


@pytest.mark.parametrize("words", ["", "start", "run --executor", "run -v -q", "new", "new a --template b"])
def test_a_command_that_is_none(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 2
    assert "usage: flowforge" in capsys.readouterr().err


def _flowforge(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_flowforge", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    environment |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_flowforge.plugin,xdist.plugin,pytest_timeout",
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_a_run_a_failure_and_the_rest(tmp_path: Path) -> None:
    (tmp_path / "flow_a.py").write_text(
        "from pathlib import Path\n"
        "def flow_one():\n    return 1\n"
        "def flow_two(one):\n    assert Path('mended').exists()\n"
    )
    listed = _flowforge(tmp_path, "list", "-q")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[:2] == ["one", "two"]
    assert _flowforge(tmp_path, "validate").returncode == 0
    first = _flowforge(tmp_path, "run")
    assert first.returncode == 1
    assert "continue with: pytest --flowforge --ff-resume" in first.stdout
    assert "Warning" not in first.stdout
    (tmp_path / "mended").touch()
    second = _flowforge(tmp_path, "run", "--resume", "-v")
    assert second.returncode == 0, second.stdout
    assert "REUSED" in second.stdout
    assert "one" in _flowforge(tmp_path, "status").stdout
    assert len(_flowforge(tmp_path, "history", "-q").stdout.splitlines()) >= 2
    assert _flowforge(tmp_path, "run", "nowhere.py").returncode == 4


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_flow_runs_and_its_test_passes(template: str, tmp_path: Path) -> None:
    made = _flowforge(tmp_path, "new", "daily", "--template", template)
    assert made.returncode == 0, made.stderr
    flow, test = Path("daily", "flow_daily.py"), Path("daily", "test_daily.py")
    assert made.stdout == f"wrote {flow}\nwrote {test}\ntry: pytest --flowforge {flow}; pytest {test}\n"
    assert "NAME" not in (tmp_path / flow).read_text() + (tmp_path / test).read_text()
    for words in (["run", "daily"], ["run", "daily", "--executor", "thread", "--workers", "2"]):
        ran = _flowforge(tmp_path, *words)
        assert ran.returncode == 0, ran.stdout
        assert " failed" not in ran.stdout
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout


def test_a_new_flow_takes_no_place_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("daily sales", "class", "a-b", ""):
        with pytest.raises(WorkflowError, match="no name of a module"):
            write(name, "etl", tmp_path)
    write("daily", "etl", tmp_path)
    with pytest.raises(WorkflowError, match="is there already"):
        write("daily", "ml", tmp_path)
    assert main(["new", "daily-sales"]) == 4
    assert "flowforge new: 'daily-sales' is no name of a module" in capsys.readouterr().err
