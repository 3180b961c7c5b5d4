"""The documentation is true: what it shows is run, what it lists is compared with the code.

Pages are Markdown with comments that do not show::

    <!-- new folder -->            what follows starts in an empty folder
    <!-- file: flow_sales.py -->   the code block below is the contents of this file
    <!-- run -->                   a shell runs the lines with "$ " in the block below, and prints the others
    <!-- run: pytest_randomly -->  the same with this plugin besides our own and its dependencies
    <!-- not run: REASON -->       the code block below is neither

A line "..." stands for any lines; durations, versions, places and the list of plugins may differ.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pytest_flowforge
from pytest_flowforge import NoResult, hookspecs
from pytest_flowforge.core.model import Task
from pytest_flowforge.core.observed import Run, TaskResult
from pytest_flowforge.core.states import TaskState
from pytest_flowforge.core.summary import RunSummary
from tests import docs_tables
from tests.plugin.conftest import SLOWER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README, REFERENCE = ROOT / "README.md", ROOT / "docs" / "reference.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


# Reading pages.


@dataclass(frozen=True)
class Block:
    """A fenced code block, with the comment right above it; ``line`` is where it stands."""

    language: str
    comment: str
    text: str
    line: int

    def argument(self, directive: str) -> str | None:
        """What follows *directive* in the comment; None where the comment says something else."""
        name, _, argument = self.comment.partition(":")
        return argument.strip() if name == directive else None


@dataclass
class Story:
    """Blocks that share a folder, and the heading under which they begin."""

    page: Path
    heading: str
    blocks: list[Block] = field(default_factory=list)


_PIECE = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$"
    r"|^#+ (?P<heading>[^\n]*)$"
    r"|^<!-- (?P<comment>[^\n]*?) -->$"
    r"|^(?P<text>[^\n]+)$",
    re.MULTILINE | re.DOTALL,
)


def stories(page: Path) -> Iterator[Story]:
    story = Story(page, page.stem)
    heading = comment = ""
    text = page.read_text(encoding="utf-8")
    for piece in _PIECE.finditer(text):
        if piece.lastgroup == "comment":
            comment = piece["comment"]
            if comment == "new folder":
                yield story
                story = Story(page, heading)
            continue
        if piece.lastgroup == "heading":
            heading = piece["heading"]
        elif piece.lastgroup == "code":
            line = text.count("\n", 0, piece.start()) + 1
            story.blocks.append(Block(piece["language"], comment, piece["code"], line))
        comment = ""
    yield story


def blocks(page: Path) -> list[Block]:
    return [block for story in stories(page) for block in story.blocks]


def exchanges(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a session, and what the page says that each of them prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


# Running what they show.

_END = "-- end of command --"


class Shell:
    """Runs sessions in the folder of a test, as a person with a fresh installation would."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        monkeypatch.setenv("COLUMNS", "80")
        # What the shell and pytest write to the two streams is to come in the order in which it was written.
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        # A file that is written anew within a second must not be mistaken for the one before.
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(self, commands: list[str], typed: str = "", plugins: str = "") -> list[str]:
        """Return what each of *commands* prints."""
        loaded = ["pytest_flowforge.plugin", "xdist.plugin", "pytest_timeout", *plugins.replace(",", " ").split()]
        self._monkeypatch.setenv("PYTEST_PLUGINS", ",".join(loaded))
        lines = [f"(exit $status)\n{command}\nstatus=$?\nprintf '\\n{_END}\\n'" for command in commands]
        script = "\n".join(["exec 2>&1", "status=0", *lines])
        result = self._pytester.run("sh", "-c", script, timeout=60 * SLOWER, stdin=typed.encode())
        return result.stdout.str().split(f"\n{_END}")[:-1]


@pytest.fixture
def shell(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Shell:
    if shutil.which("sh") is None:
        pytest.skip("sessions are run by a POSIX shell")
    return Shell(pytester, monkeypatch)


_VARIES = re.compile(
    # Lines of the header that depend on the machine, and those that point into code, which old versions do not print.
    r"^(platform|rootdir:|plugins:|Using --randomly-seed).*\n|^[E>]? *[\^~]+\n|^ *\n",
    re.MULTILINE,
)


def normal(text: str) -> list[str]:
    """The lines of *text*, without what may differ from one run to the next."""
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    text = re.sub(r"\b\d+\.\d\ds\b", "#s", text)
    text = re.sub(r"\b\d{8}-\d{6}-[0-9a-f]{4}\b", "RUN", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b", "WHEN", text)
    text = re.sub(r"\b\d+\.\d\d s\b", "# s", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "DIGEST", text)
    text = re.sub(r"\b127\.0\.0\.1:\d+", "HERE", text)
    text = re.sub(r"(?<!\S)/\S*/(?=\w+\.py\b)", "", text)
    # --setup-show of pytest 8 leaves this space out.
    text = re.sub(r"\)\.$", ") .", text, flags=re.MULTILINE)
    text = re.sub(r"([=_!>~-])\1{2,}", r"\1\1\1", text)
    return _VARIES.sub("", text).splitlines()


_ENDED = re.compile(r"(\S+ [A-Z]+ \(#s\)) +\[ *\d+%\]")


def side_by_side(lines: list[str]) -> list[str]:
    """*lines* with those that tell the ends of tasks in alphabetical order: a machine that stalls mixes them."""
    ends = iter(sorted(found[1] for line in lines if (found := _ENDED.fullmatch(line))))
    return [next(ends) if _ENDED.fullmatch(line) else line for line in lines]


def agree(printed: list[str], expected: list[str]) -> bool:
    """Whether *expected*, in which a line "..." stands for any lines, describes what was *printed*."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in expected)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


_STORIES = [story for page in PAGES for story in stories(page) if any(block.comment for block in story.blocks)]


@pytest.mark.parametrize("story", _STORIES, ids=lambda story: f"{story.page.stem}: {story.heading}")
def test_what_is_shown_is_what_happens(story: Story, shell: Shell, pytester: pytest.Pytester) -> None:
    for block in story.blocks:
        name, plugins = block.argument("file"), block.argument("run")
        if name is not None:
            path = pytester.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if plugins is not None:
            typed = "".join(re.findall(r"^\(Pdb\) (.*\n)", block.text, re.MULTILINE))
            printed = shell.run([command for command, _ in exchanges(block)], typed, plugins)
            check(story.page, block, printed)


def check(page: Path, block: Block, printed: list[str]) -> None:
    for (command, shown), text in zip(exchanges(block), printed, strict=True):
        # What was typed at a prompt is on the screen and not in the output.
        expected, found = normal(re.sub(r"^(\(Pdb\) ).*\n", r"\1", shown, flags=re.MULTILINE)), normal(text)
        if "--ff-executor thread" in command:
            expected, found = side_by_side(expected), side_by_side(found)
        assert agree(found, expected), f"{page.name}, line {block.line}: what `{command}` really prints:\n{text}"


@_page
def test_every_block_says_what_it_is(page: Path) -> None:
    exempt = {"mermaid", "text", ""}
    known = ("file", "run", "not run", "ci")
    dumb = [
        block.line
        for block in blocks(page)
        if block.language not in exempt and all(block.argument(directive) is None for directive in known)
    ]
    assert dumb == [], f"{page.name}: code blocks at these lines are neither files nor sessions"


def test_a_difference_is_seen() -> None:
    shown = normal("a\n...\n=== 5 passed in 0.01s ===\n")
    assert agree(normal("a\nb\n\nc\n======== 5 passed in 0.42s ========\n"), shown)
    assert agree(
        normal("a\n=== 5 passed in 12.42s (0:00:12) ===\n"), normal("a\n=== 5 passed in 0.01s (0:00:12) ===\n")
    )
    assert not agree(normal("a\nb\n=== 4 passed in 0.42s ===\n"), shown)
    ends = ["a.py::a PASSED (#s)  [ 50%]", "a.py::b FAILED (#s)  [100%]"]
    mixed = ["a.py::b FAILED (#s)  [ 50%]", "a.py::a PASSED (#s)  [100%]"]
    assert not agree(mixed, ends)
    assert agree(side_by_side(mixed), side_by_side(ends))
    assert not agree(side_by_side([*mixed, *ends]), side_by_side(ends))
    assert not agree(normal("b\n=== 5 passed in 0.42s ===\n"), shown)


# The first page.


def test_the_commands_for_a_fresh_machine_are_one_line_each() -> None:
    commands = {block.argument("ci"): block.text.splitlines() for block in blocks(README) if block.argument("ci")}
    assert set(commands) == {"examples", "tests"}
    for lines in commands.values():
        assert len(lines) == 1
        assert lines[0].startswith("pip install")


def test_the_picture_is_the_graph(shell: Shell, pytester: pytest.Pytester) -> None:
    flow = next(block for block in blocks(README) if block.argument("file"))
    picture = next(block for block in blocks(README) if block.language == "mermaid")
    pytester.path.joinpath("flow_it.py").write_text(flow.text, encoding="utf-8")
    (answer,) = shell.run(["pytest --flowforge --ff-list --ff-format json 2>/dev/null"])
    tasks = json.loads(answer)["tasks"]
    names = {task["id"]: task["name"] for task in tasks}

    assert drawn(picture.text) == {(names[need], task["name"]) for task in tasks for need in task["needs"]}


_ARROW = re.compile(r' --> | -\. "[^"]*" \.-> ')
_NODE = re.compile(r'(\w+)(?:\["(.*)"\])?')


def drawn(picture: str) -> set[tuple[str, str]]:
    """The edges of a picture in Mermaid's language."""
    labels: dict[str, str] = {}
    edges = set()
    for line in picture.splitlines()[1:]:
        chain = []
        for text in _ARROW.split(line.strip()):
            node = _NODE.fullmatch(text)
            assert node is not None, text
            chain.append(labels.setdefault(node[1], node[2] or node[1]))
        edges |= set(pairwise(chain))
    return edges


def test_every_dependency_is_accounted_for() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert declared is not None
    names = re.findall(r'"([\w-]+)', declared[1])
    assert _first_cells(README, r"[a-z-]+", "Dependencies") == sorted(names)


# Tables and lists.


def _section(page: Path, heading: str) -> str:
    """What stands between a heading and the next one."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page.name} has no section {heading!r}"
    return found[1]


def _first_cells(page: Path, name: str, heading: str) -> list[str]:
    """What the first column of the tables in a section begins with."""
    return sorted(re.findall(rf"^\| `({name})", _section(page, heading), re.MULTILINE))


def test_the_generated_tables_are_up_to_date() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert docs_tables.renewed(text) == text, "run `python -m tests.docs_tables --write`"


def test_all_options_and_ini_values(shell: Shell) -> None:
    (printed,) = shell.run(["pytest --help"])
    group = re.search(r"^flowforge: .*?(?=^\S)", printed.partition("\n")[2], re.MULTILINE | re.DOTALL)
    assert group is not None
    assert _first_cells(REFERENCE, r"--[\w-]+", "Options") == sorted(
        re.findall(r"^  (--[\w-]+)", group[0], re.MULTILINE)
    )
    ini = sorted(re.findall(r"^  (flowforge\w*) \(", printed, re.MULTILINE))
    assert _first_cells(REFERENCE, r"flowforge\w*", "Configuration file") == ini


def test_all_marks(shell: Shell) -> None:
    (printed,) = shell.run(["pytest --markers"])
    marks = re.findall(r"^@pytest\.mark\.(\w+)", printed, re.MULTILINE)
    ours = marks[marks.index("depends_on") : marks.index("idempotent") + 1]
    assert _first_cells(REFERENCE, r"\w+", "Marks") == sorted({*ours, "timeout"})


def test_all_hooks_with_their_arguments() -> None:
    hooks = [
        f"{name}({', '.join(inspect.signature(hook).parameters)})"
        for name, hook in vars(hookspecs).items()
        if name.startswith("pytest_flowforge_")
    ]
    assert _first_cells(REFERENCE, r"pytest_flowforge_\w+\(.*?\)", "Hooks") == sorted(hooks)


def test_all_public_names() -> None:
    assert _first_cells(REFERENCE, r"\w+", "Python names") == sorted(pytest_flowforge.__all__)


@pytest.mark.parametrize("value", [Run, TaskResult, NoResult], ids=lambda value: value.__name__)
def test_all_fields(value: Any) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    described = re.search(rf"^`{value.__name__}`.*(?:\n.+)*", text, re.MULTILINE)
    assert described is not None
    missing = [item.name for item in fields(value) if f"`{item.name}`" not in described[0]]
    assert missing == []


@pytest.mark.parametrize("value", [Task, RunSummary], ids=lambda value: value.__name__)
def test_fields_that_are_described_exist(value: Any) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    described = re.search(rf"^`{value.__name__}`.*(?:\n.+)*", text, re.MULTILINE)
    assert described is not None
    named = re.findall(r"`(\w+)`", described[0])[1:]
    assert named
    assert [name for name in named if not hasattr(value, name)] == []


def test_all_states_are_described() -> None:
    described = _first_cells(REFERENCE, r"[A-Z_]+", "States")
    assert described == sorted(state.name for state in TaskState)


# Links.


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []
