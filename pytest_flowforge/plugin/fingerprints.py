"""What each task is made of: its code and that of its fixtures, its parameters, and what it declares."""

from __future__ import annotations

import os
from dataclasses import replace
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowforge.codeprint import CodeDigest, CodePrinter
from pytest_flowforge.codeprint.files import digests_of_files
from pytest_flowforge.codeprint.values import parameter_digest, value_digest
from pytest_flowforge.core.fingerprint import Fingerprint, digest_of
from pytest_flowforge.plugin.pytest_internals import fixture_view
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry, TaskFunction
    from pytest_flowforge.plugin.graphing import Blueprint
    from pytest_flowforge.plugin.marks import CacheRule

__all__ = ["Fingerprints", "digest_of_graph"]

#: Characters of a parameter that are kept to say from what to what it has changed.
_LONGEST_SHOWN = 60


class Fingerprints:
    """Takes the fingerprints of collected tasks.

    The code of a function is looked at once for all its parameter sets.
    """

    def __init__(self, config: pytest.Config, entries: Mapping[TaskId, Entry], blueprint: Blueprint) -> None:
        self._hook = config.hook.pytest_flowforge_fingerprint
        self._asks_plugins = bool(self._hook.get_hookimpls())
        self._entries = entries
        self._blueprint = blueprint
        self._printer = CodePrinter(_roots(config, entries.values()))
        self._codes: dict[TaskFunction, str] = {}

    def take(self, tasks: Iterable[TaskId]) -> dict[TaskId, Fingerprint]:
        """Return the fingerprints of *tasks*, as things are now."""
        return {task: self._of(self._entries[task]) for task in tasks}

    def parts(self) -> dict[str, str]:
        """Return the digests of all pieces of code that the tasks asked about so far are made of, by name."""
        return self._printer.parts()

    def parts_of(self, task: TaskId) -> Mapping[str, str]:
        """Return those of the pieces that *task* is made of."""
        return self._digest(self._entries[task]).parts

    def again(self, task: TaskId, before: Fingerprint) -> Fingerprint:
        """Return the fingerprint of *task* with its declared inputs as they are now."""
        others = [pair for pair in before.extra if not pair[0].startswith(_INPUT)]
        rule = self._blueprint.rules[task]
        extra = tuple(sorted([*others, *_inputs(self._entries[task], rule)]))
        return Fingerprint(before.code, before.parameters, extra, before.shown)

    def outputs(self, task: TaskId) -> Mapping[str, str] | None:
        """Return the digests of the output files that *task* declares, empty for one that is missing; None without."""
        rule = self._blueprint.rules.get(task)
        if rule is None or not rule.outputs:
            return None
        return digests_of_files(self._entries[task].item.path.parent, rule.outputs)

    def close(self) -> None:
        """Give up everything that is known of code: it is much, and needed no more."""
        self._printer.close()
        self._codes.clear()

    def _of(self, entry: Entry) -> Fingerprint:
        code = self._codes.get(entry.home)
        if code is None:
            code = self._codes[entry.home] = self._code(entry)
        params = entry.params or entry.home.given
        shown = tuple((name, quoted(value)[:_LONGEST_SHOWN]) for name, value in params.items()) if params else ()
        fingerprint = Fingerprint(code, parameter_digest(params), self._extra(entry), shown)
        return fingerprint if entry.instance_of is None else self.of_instance(entry.id, fingerprint)

    def of_instance(self, task: TaskId, mapped: Fingerprint) -> Fingerprint:
        """Return the fingerprint of an instance, given that of its mapped task: it is made of its element, too."""
        parameter, digest, shown = self._blueprint.elements[task]
        extra = tuple(sorted([*mapped.extra, ("element", digest)]))
        return replace(mapped, extra=extra, shown=(*mapped.shown, (parameter, shown[:_LONGEST_SHOWN])))

    def _code(self, entry: Entry) -> str:
        return self._digest(entry).value

    def _digest(self, entry: Entry) -> CodeDigest:
        item = entry.item
        also: Iterable[Any] = fixture_view(item).functions() if item.fixturenames else ()
        declared = entry.home.declared
        if declared is not None:
            return self._printer.digest(declared.func, (*also, *declared.resources.values()))
        return self._printer.digest(_callable(item) if entry.home.owner else item.obj, also)

    def _extra(self, entry: Entry) -> tuple[tuple[str, str], ...]:
        rule = self._blueprint.rules.get(entry.id)
        needs = self._blueprint.needs[entry.id].by_key
        if rule is None and not needs and not self._asks_plugins:
            return ()
        pairs = [("upstreams", digest_of(*needs))] if needs else []
        if rule is not None:
            pairs += _inputs(entry, rule)
            pairs += [(f"env {name}", _environment(name)) for name in rule.env]
            pairs += [("version", rule.version)] if rule.version else []
        if self._asks_plugins:
            pairs += self._from_plugins(entry.item)
        return tuple(sorted(pairs))

    def _from_plugins(self, item: pytest.Item) -> Iterator[tuple[str, str]]:
        for number, answer in enumerate(self._hook(item=item)):
            name = f"fingerprint {number}" if number else "fingerprint"
            named = answer if isinstance(answer, dict) else {name: answer}
            yield from ((str(name), value_digest(value)) for name, value in named.items())


_INPUT = "input "


def _inputs(entry: Entry, rule: CacheRule) -> list[tuple[str, str]]:
    found = digests_of_files(entry.item.path.parent, rule.inputs) if rule.inputs else {}
    return [(f"{_INPUT}{path}", digest or "missing") for path, digest in found.items()]


def _environment(name: str) -> str:
    # A digest, never the value: it may be a secret.
    value = os.environ.get(name)
    return "not set" if value is None else digest_of("env", value)


def _callable(item: pytest.Function) -> Any:
    """The function of *item*; a method bound to an object of its class, which is not initialized."""
    owner = item.getparent(pytest.Class)
    if owner is None:
        return item.obj
    cls = owner.obj
    function = getattr(cls, item.originalname, None) or item.function
    return MethodType(function, object.__new__(cls)) if isinstance(function, FunctionType) else function


def _roots(config: pytest.Config, entries: Iterable[Entry]) -> list[Path]:
    """The folders of the project: the root, and those of flow files elsewhere."""
    root = config.rootpath
    elsewhere = dict.fromkeys(entry.home.path.parent for entry in entries)
    return [root, *[folder for folder in elsewhere if not folder.is_relative_to(root)]]


def digest_of_graph(fingerprints: Mapping[TaskId, Fingerprint]) -> str:
    """Return the digest of all the code of these tasks, and of their names and parameters."""
    texts = [text for task, mark in sorted(fingerprints.items()) for text in (task, mark.code, mark.parameters)]
    return digest_of(*texts)
