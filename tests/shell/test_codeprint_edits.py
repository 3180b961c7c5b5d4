"""Histories of edits in a small project, and an oracle that knows from the project's plan which digests change.

The plan says what each function calls; the oracle follows it. It reads no Python, the printer sees nothing else.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from pytest_flowforge.codeprint import CodePrinter, explain
from tests.shell.printing import imported, pick, printed_elsewhere, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: How each file says the name of what another defines.
_IMPORTS = {
    "flow_etl.py": "import functools\nimport pytest\nimport helpers\nimport pkg.sub as sub\nfrom helpers import clean\n"
    "from tools import deco, Base\n",
    "helpers.py": "import functools\nimport pkg.sub\nfrom tools import deco, BaseTool\n",
    "pkg/sub.py": "import functools\nimport helpers as h\nfrom tools import deco\n",
    "pkg/__init__.py": "",
    "tools.py": "import functools\n",
}
_PREFIX = {
    ("flow_etl.py", "helpers.py"): "helpers.",
    ("flow_etl.py", "pkg/sub.py"): "sub.",
    ("helpers.py", "pkg/sub.py"): "pkg.sub.",
    ("pkg/sub.py", "helpers.py"): "h.",
}


@dataclass(frozen=True)
class Item:
    """One function, method, constant or class head: what means something, and what does not."""

    file: str
    name: str
    kind: str
    #: What it may call or read.
    may: tuple[str, ...] = ()
    owner: str = ""
    # What means something.
    body: int = 0
    default: int = 0
    local: str = "value"
    decorated: int = 0
    calls: frozenset[str] = frozenset()
    # What does not.
    comment: int = 0
    doc: int = 0
    layout: int = 0
    marked: int = 0
    annotation: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        return f"{self.file}::{self.owner}.{self.name}" if self.owner else f"{self.file}::{self.name}"

    @property
    def meaning(self) -> tuple[Any, ...]:
        return (self.body, self.default, self.local, self.decorated, self.calls)


def _plan() -> dict[str, Item]:
    helpers, flows, sub, tools = "helpers.py", "flow_etl.py", "pkg/sub.py", "tools.py"
    anything = ("clean", "norm", "LIMIT", "model", "SCALE", "Tool")
    items = [
        Item(tools, "deco", "decorator"),
        Item(tools, "Base", "head"),
        Item(tools, "finish", "method", owner="Base"),
        Item(tools, "hook", "method", owner="Base"),
        Item(tools, "BaseTool", "head"),
        Item(tools, "part", "method", owner="BaseTool"),
        Item(helpers, "clean", "function", (*anything, "scale"), calls=frozenset({"norm", "LIMIT"})),
        Item(helpers, "norm", "function", anything),
        Item(helpers, "scale", "function", anything),
        Item(helpers, "LIMIT", "constant", ("norm", "OTHER", "SCALE")),
        Item(helpers, "OTHER", "constant"),
        Item(helpers, "Tool", "head", ("LIMIT",)),
        Item(helpers, "run", "method", anything, owner="Tool", calls=frozenset({"scale"})),
        Item(sub, "model", "function", anything, calls=frozenset({"norm", "SCALE"})),
        Item(sub, "SCALE", "constant", ("model",)),
        Item(flows, "flow_load", "function", (*anything, "TABLE"), calls=frozenset({"clean"})),
        Item(flows, "flow_fit", "function", (*anything, "flow_load"), calls=frozenset({"model", "Tool"})),
        Item(flows, "flow_lone", "function", anything),
        Item(flows, "TABLE", "constant", ("flow_lone", "LIMIT")),
        Item(flows, "FlowBox", "head", ("TABLE",)),
        Item(
            flows, "flow_one", "method", ("self.step", "self.hook", "norm"), "FlowBox", calls=frozenset({"self.step"})
        ),
        Item(flows, "flow_two", "method", ("self.finish", "super().hook", "LIMIT"), "FlowBox"),
        Item(flows, "step", "method", ("self.finish", "self.flow_one", "scale"), "FlowBox"),
        Item(flows, "hook", "method", ("super().hook", "model"), "FlowBox"),
    ]
    return {_id(item): item for item in items}


def _id(item: Item) -> str:
    return f"{item.owner}.{item.name}" if item.owner else item.name


PLAN = _plan()
BASES = {"Tool": "BaseTool", "FlowBox": "Base"}
TASKS = ["flow_load", "flow_fit", "flow_lone", "FlowBox.flow_one", "FlowBox.flow_two"]


@dataclass(frozen=True)
class Version:
    """All items, the order they stand in, and how many functions nobody calls are there besides."""

    items: Mapping[str, Item]
    order: int = 0
    strangers: int = 0

    def files(self) -> dict[str, str]:
        texts = dict(_IMPORTS)
        shuffled = list(self.items.values())
        random.Random(self.order).shuffle(shuffled)  # noqa: S311 - an order that can be repeated
        # What runs on import has to stand first.
        shuffled.sort(key=lambda item: item.kind != "decorator")
        for item in shuffled:
            if item.kind == "head":
                methods = [one for one in shuffled if one.owner == item.name]
                texts[item.file] += self._class(item, methods)
            elif not item.owner:
                texts[item.file] += self._text(item) + "\n\n"
        for number in range(self.strangers):
            texts["helpers.py"] += f"def stranger_{number}():\n    return norm({number})\n"
        return texts

    def _class(self, head: Item, methods: list[Item]) -> str:
        base = BASES.get(head.name)
        lines = [f"class {head.name}({base}):" if base else f"class {head.name}:"]
        lines += [f"    '''Doc {head.doc}.'''"] * (head.doc > 0) + [f"    # {head.comment}"] * (head.comment > 0)
        lines += [f"    {head.local} = ({head.body}, lambda: ({self._calls(head)}))"]
        inside = [self._text(method) for method in methods]
        lines += ["    " + line if line else "" for text in inside for line in text.splitlines()]
        return "\n".join(lines) + "\n\n\n"

    def _text(self, item: Item) -> str:
        if item.kind == "decorator":
            doc = f"    '''Doc {item.doc}.'''\n" * (item.doc > 0)
            return (
                f"def deco({item.local}):\n{doc}    def wrap(function):\n        @functools.wraps(function)\n"
                f"        def inner(*args):\n            return function(*args), {item.body}, {item.local}\n"
                f"        return inner\n    return wrap\n"
            )
        comment = f"# {item.comment}\n" * (item.comment > 0)
        if item.kind == "constant":
            tail = "\n" if item.layout % 2 else ""
            return f"{comment}{item.name} = ({tail}{item.body}, '{item.local}', lambda: ({self._calls(item)}))"
        decorators = f"@pytest.mark.skipif(False, reason='{item.marked}')\n" * (
            item.marked > 0 and item.file == "flow_etl.py"
        )
        if item.decorated:
            name = "functools.wraps(len)" if item.file == "tools.py" else f"deco({item.decorated})"
            decorators += f"@{name}\n"
        first = "self, " if item.owner else ""
        space = " " * (item.layout % 3)
        lines = [f"def {item.name}({first}{item.local}={space}{item.default}{space}):"]
        lines += [f"    '''Doc {item.doc}.'''"] * (item.doc > 0) + [f"    # {item.comment}"] * (item.comment > 0)
        if item.layout % 2:
            lines += [
                f"    return ({item.local},",
                f"            {item.body},",
                f"            ({self._calls(item)}))  # so",
            ]
        else:
            lines += [f"    return {item.local}, {item.body}, ({self._calls(item)})"]
        return comment + decorators + "\n".join(lines)

    def _calls(self, item: Item) -> str:
        return "".join(f"{self._expression(item.file, call)}, " for call in sorted(item.calls))

    def _expression(self, file: str, call: str) -> str:
        if call.startswith(("self.", "super()")):
            return f"{call}()"
        if (file, call) == ("flow_etl.py", "clean"):
            return call
        return _PREFIX.get((file, self.items[call].file), "") + call

    # The oracle.

    def reached(self, task: str) -> dict[str, tuple[Any, ...]]:
        """Key -> meaning of all that the task reaches."""
        found: dict[str, None] = {}
        pending = [task, *(self._heads("FlowBox") if "." in task else [])]
        while pending:
            one = pending.pop()
            if one in found:
                continue
            found[one] = None
            item = self.items[one]
            if item.decorated and item.file != "tools.py":
                pending.append("deco")
            for call in item.calls:
                pending += self._called(item, call)
        return {self.items[one].key: self.items[one].meaning for one in found}

    def _called(self, item: Item, call: str) -> Iterator[str]:
        if call == "Tool":
            for owner in (call, BASES[call]):
                yield owner
                yield from (name for name, one in self.items.items() if one.owner == owner)
        elif call.startswith("super()"):
            yield f"{BASES[item.owner]}.{call.partition('.')[2]}"
        elif call.startswith("self."):
            name = call.partition(".")[2]
            yield f"FlowBox.{name}" if f"FlowBox.{name}" in self.items else f"Base.{name}"
        else:
            yield call

    def _heads(self, name: str) -> list[str]:
        return [name, BASES[name]]


FIRST = Version(PLAN)

#: Edits of one item: (what, whether it means something).
MEANINGFUL = ["body", "default", "local", "decorated", "calls"]
COSMETIC = ["comment", "doc", "layout", "marked"]


@st.composite
def edits(draw: st.DrawFn, version: Version) -> tuple[str, Version]:
    """One edit of *version*, and what to call it."""
    kind = draw(st.sampled_from([*MEANINGFUL, *COSMETIC, "order", "strangers"]))
    if kind in {"order", "strangers"}:
        number = draw(st.integers(0, 5))
        return kind, replace(version, order=number) if kind == "order" else replace(version, strangers=number)
    fitting = [name for name, item in version.items.items() if _can(item, kind)]
    name = draw(st.sampled_from(fitting))
    item = version.items[name]
    value: Any
    if kind == "calls":
        value = item.calls ^ {draw(st.sampled_from(sorted(item.may)))}
    elif kind == "local":
        value = draw(st.sampled_from(["value", "other", "x"]))
    else:
        value = draw(st.integers(0, 2))
    return f"{kind} of {name} = {value}", replace(
        version, items={**version.items, name: replace(item, **{kind: value})}
    )


def _can(item: Item, kind: str) -> bool:
    functions = {"function", "method"}
    return {
        "default": item.kind in functions,
        "decorated": item.kind in functions and item.file != "tools.py",
        "calls": bool(item.may),
        "layout": item.kind in {*functions, "constant"},
        "marked": item.kind in functions and item.file == "flow_etl.py",
        "doc": item.kind != "constant",
    }.get(kind, True)


def _expected(before: dict[str, Any], after: dict[str, Any]) -> Counter[str]:
    words = [f"{key} added" for key in after.keys() - before.keys()]
    words += [f"{key} removed" for key in before.keys() - after.keys()]
    words += [f"{key} changed" for key in before.keys() & after.keys() if before[key] != after[key]]
    return Counter(words)


@settings(max_examples=60)
@given(data=st.data())
def test_a_digest_changes_exactly_when_something_it_reaches_means_something_else(data: st.DataObject) -> None:
    version = FIRST
    #: Task -> meaning -> digest, over the whole history: what comes back must look as it did.
    known: dict[str, dict[str, str]] = {task: {} for task in TASKS}
    before: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for _ in range(data.draw(st.integers(2, 8))):
            write(folder, version.files())
            with imported(folder, "flow_etl") as module:
                printer = CodePrinter([folder])
                for task in data.draw(st.permutations(TASKS)):
                    told = printer.digest(pick(module, task))
                    reached = version.reached(task)
                    assert set(told.parts) == set(reached)
                    if task in before:
                        said = explain(before[task][1], told.parts)
                        assert Counter(said.split(", ") if said else []) == _expected(before[task][0], reached)
                    meaning = repr(
                        sorted(
                            (key, [sorted(x) if isinstance(x, frozenset) else x for x in what])
                            for key, what in reached.items()
                        )
                    )
                    assert known[task].setdefault(meaning, told.value) == told.value
                    before[task] = (reached, dict(told.parts), told.value)
            for task, values in known.items():
                assert len(set(values.values())) == len(values), task
            words, version = data.draw(edits(version))
            note(words)


@pytest.mark.parametrize("seed", range(3))
def test_the_digests_of_a_random_version_are_the_same_in_other_processes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a choice that can be repeated
    items = {
        name: replace(
            item,
            calls=frozenset(one for one in item.may if chance.random() < 0.6),
            decorated=seed % 2 if _can(item, "decorated") else 0,
        )
        for name, item in PLAN.items()
    }
    version = Version(items, order=seed)
    told = []
    for number in range(3):
        folder = write(tmp_path / str(number) / "p", replace(version, order=number).files())
        told.append(printed_elsewhere(folder, *TASKS, seed=str(number), cwd=[tmp_path, folder, folder.parent][number]))
    assert told[0] == told[1] == told[2]
    assert json.dumps(told[0]).count("::") == sum(len(version.reached(task)) for task in TASKS)
