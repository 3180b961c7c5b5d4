"""Digests of functions, each with all the code of the project that it reaches.

A digest covers the function's own syntax, decorators that are no marks, default values, what it closes over, and
every function, class and constant of the project that it reaches by name: directly, through imports, through
``self``, and through what it reaches itself. Comments, formatting, docstrings, places and everything it does not
reach do not count. Of installed packages and the standard library only the names count.

It is the same in every process, on every machine, in every folder, under every hash seed. Another version of Python may
give another one.

What no syntax tells is not seen: code reached through ``importlib.import_module`` or ``__import__``, by a name in a
string, by assignments to other modules (``helpers.clean = f``), by registration in another file, or in attributes that
somebody else puts on an object. ``getattr(module, name)``, ``globals()``, ``eval`` and ``exec`` make everything at
the top level of that module count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowforge.codeprint.living import Living, living_value
from pytest_flowforge.codeprint.project import FileCache, Project
from pytest_flowforge.codeprint.reach import Reach
from pytest_flowforge.codeprint.things import Parts, forget, settle
from pytest_flowforge.core.fingerprint import digest_of, explain, text_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_flowforge.codeprint.things import Thing

__all__ = ["MARKS", "CodeDigest", "CodePrinter", "FileCache", "explain"]

#: Decorators that carry marks: what they say is not part of what a task does.
MARKS = (
    "pytest.mark",
    "pytest_flowforge.depends_on",
    "pytest_flowforge.task",
    "pytest_flowforge.workflow.workflows.Workflow.task",
)


@dataclass(frozen=True, slots=True)
class CodeDigest:
    """The digest of a function with all it reaches, and the own digest of each of those things.

    Keys of ``parts`` are ``file::name`` with the file relative to the root of the project: ``helpers.py::clean``,
    ``flow_etl.py::FlowEtl.clean``. A class stands for itself without its methods. ``[name]`` behind a key is a value
    that was given to a function when it was made; ``(bytecode)`` says that no source was found. ``parts`` is
    put together when it is first looked at; ``dict(parts)`` is a copy to keep.
    """

    value: str
    parts: Mapping[str, str]


class CodePrinter:
    """Takes digests of functions of the project that lies in and below *project_roots*.

    Files below a root are named relative to it, those below any but the first root with the root's name before.
    Virtual environments and installed packages below a root do not belong to the project. The file of a function that
    is asked for does, wherever it is.

    One printer sees each file as it was when first asked about it: make a new one for each run, with the same
    *files* where there are several in one process. It belongs to one thread.
    """

    def __init__(
        self, project_roots: Sequence[Path], *, marks: Sequence[str] = MARKS, files: FileCache | None = None
    ) -> None:
        project = Project(project_roots, files if files is not None else FileCache())
        self._reach = Reach(project, marks, living_value)
        self._living = Living(self._reach)
        #: All that was asked for so far, as often as it was.
        self._roots: list[Thing] = []

    def digest(self, function: Any, also: Iterable[Any] = ()) -> CodeDigest:
        """The digest of *function*, and of what it uses *also* (the functions of its fixtures, in any order).

        Any callable will do: a bound method counts with its object and the class of that, a partial with its arguments.
        """
        things = self._living.things(function, root=True)
        others = self._living.things(*also, root=True) if also else ()
        if len(things) == 1 and not others:
            value = text_digest(_value(things[0]))
        else:
            value = digest_of(*sorted(map(_value, things)), "also", *sorted(map(_value, others)))
            things += others
        self._roots += things
        return CodeDigest(value, Parts(things))

    def parts(self) -> dict[str, str]:
        """The own digest of everything that any digest so far reaches, by key: the ``parts`` of all of them together.

        It takes as long as there are things, however many functions reach each of them.
        """
        return dict(Parts(self._roots))

    def close(self) -> None:
        """Drop all that is known. Values of digests stay, and ``parts`` that somebody has looked at.

        Things reach each other in circles, which would stay until Python looks for such, or for ever after
        ``gc.freeze()``. Other printers keep the files that they share with this one.
        """
        forget(self._roots)
        self._roots.clear()
        self._reach.close()


def _value(thing: Thing) -> str:
    return f"{thing.key} {settle(thing)}"
