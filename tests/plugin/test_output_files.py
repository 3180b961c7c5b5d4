"""Files that options name: where they are, and what is refused, the same for all of these options."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Flow

_FILES = pytest.mark.parametrize(
    ("option", "file"),
    [("--ff-metrics", "a.json"), ("--ff-graph", "a.svg"), ("--ff-report", "a.html"), ("--ff-events", "a.jsonl")],
)


@_FILES
def test_names_may_have_variables_and_folders_that_are_still_to_be_made(
    flow: Flow, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str, file: str
) -> None:
    monkeypatch.setenv("OUT", "made/here")
    monkeypatch.setenv("NAME", file)
    # What the name says is said by what it stands for.
    result = flow("def flow_a(): ...", f"{option}=$OUT/$NAME")
    assert result.ret == pytest.ExitCode.OK
    assert [path.name for path in (pytester.path / "made/here").iterdir()] == [file]


@_FILES
def test_the_folder_of_an_unknown_user_is_refused(flow: Flow, option: str, file: str) -> None:
    result = flow("def flow_a(): ...", f"{option}=~nosuchuser/{file}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {option} ~nosuchuser/{file}: can not be written (*); name another place"])


@_FILES
def test_a_file_without_a_name_is_refused(flow: Flow, option: str, file: str) -> None:
    result = flow("def flow_a(): ...", f"{option}=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR, file
    result.stderr.fnmatch_lines([f"ERROR: {option}: name a file"])


def test_one_file_is_not_for_two_options(flow: Flow, pytester: pytest.Pytester) -> None:
    (pytester.path / "link.json").symlink_to("a.json")
    result = flow("def flow_a(): ...", "--ff-metrics=a.json", "--ff-graph=link.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --ff-graph link.json: --ff-metrics writes that file, too; name two"])
    assert not (pytester.path / "a.json").exists()
