"""The command ``flowforge``: words for what ``pytest --flowforge`` does by options, and a new flow to begin with.

It translates and decides nothing: each command but ``new`` is one of pytest, which can be seen with
``--show-command``. What pytest has besides goes behind ``--``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_flowforge import __version__
from pytest_flowforge.errors import WorkflowError
from pytest_flowforge.new_flow import TEMPLATES, write

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "translated"]

#: The exit status of pytest for what is wrong with the command.
_USAGE = 4

#: What each command is called among the options of pytest, and what it does.
_COMMANDS = {
    "list": ("--ff-list", "list the tasks, each after its upstreams"),
    "validate": ("--ff-validate", "check everything, run nothing; exit status 0 or 4"),
    "run": ("", "run the tasks"),
    "status": ("--ff-status", "show the last run, task by task"),
    "history": ("--ff-history", "show the runs that are kept"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments* say, by default those of the process; return the exit status."""
    parser = _parser()
    # Completion of a shell: it is there for those who have the library that does it.
    with suppress(ImportError):
        import argcomplete  # noqa: PLC0415

        argcomplete.autocomplete(parser)
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, behind = given, []
    if "--" in given:
        place = given.index("--")
        own, behind = given[:place], given[place + 1 :]
    chosen = parser.parse_args(own)
    if chosen.command == "new":
        return _new(chosen)
    command = [*translated(chosen), *behind]
    if chosen.show_command:
        print(shlex.join(["pytest", *command]))  # noqa: T201 - that was asked for
        return 0
    return _become([sys.executable, "-m", "pytest", *command])


def _become(command: list[str]) -> int:
    """Run *command* in the place of this process, which then is what Ctrl-C and the exit status are about."""
    if os.name == "posix":
        sys.stdout.flush()
        os.execv(command[0], command)  # noqa: S606 - our own interpreter, and no shell
    return subprocess.call(command)  # noqa: S603 - the same


def translated(chosen: argparse.Namespace) -> list[str]:
    """Return the arguments for pytest that a command stands for."""
    option = _COMMANDS[chosen.command][0]
    words = ["--flowforge", *([option] if option else [])]
    if chosen.checkpoint:
        # In one word: as an argument of its own pytest could take the folder for a part of the project.
        words.append(f"--ff-checkpoint={os.fspath(chosen.checkpoint)}")
    if chosen.format:
        words += ["--ff-format", chosen.format]
    if chosen.command == "run":
        words += ["--ff-dry-run"] * chosen.dry_run
        words += ["--ff-resume"] * chosen.resume
        words += ["--ff-executor", chosen.executor] if chosen.executor else []
        words += ["--ff-workers", chosen.workers] if chosen.workers else []
    words += ["--ff-run", chosen.run] if getattr(chosen, "run", None) else []
    words += ["-v"] * chosen.verbose + ["-q"] * chosen.quiet
    return [*words, *chosen.files]


def _new(chosen: argparse.Namespace) -> int:
    try:
        written = write(chosen.name, chosen.template)
    except (WorkflowError, OSError) as error:
        print(f"flowforge new: {error}", file=sys.stderr)  # noqa: T201 - there is no pytest that would say it
        return _USAGE
    for path in written:
        print(f"wrote {path}")  # noqa: T201 - that is its answer
    flow, test = written
    print(f"try: pytest --flowforge {flow}; pytest {test}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowforge",
        description="Run flow_* functions as workflows.",
        epilog="What stands behind -- goes to pytest as it is: flowforge run flows/ -- -k train --pdb",
    )
    parser.add_argument("--version", action="version", version=f"pytest-flowforge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _add_common(command)
        if name == "run":
            _add_run(command)
            continue
        command.add_argument("--format", choices=["text", "json"], help="how to answer")
        if name == "status":
            command.add_argument("--run", metavar="ID", help="that run, and not the last one")
    about = "write a small flow with a test"
    new = commands.add_parser("new", help=about, description=f"{about.capitalize()}.")
    new.add_argument("name", metavar="NAME", help="what the flow is called: a folder of that name is made")
    new.add_argument("--template", choices=list(TEMPLATES), default="etl", help="what it is about (default: etl)")
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="*", metavar="FILE", help="flow files, folders or node ids; default: all here")
    command.add_argument("--checkpoint", metavar="DIR", help="where runs are kept")
    command.add_argument("--show-command", action="store_true", help="show the command of pytest, and leave it at that")
    loud = command.add_mutually_exclusive_group()
    loud.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: still more")
    loud.add_argument("-q", "--quiet", action="count", default=0, help="say less")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--executor", metavar="NAME", help="local, thread, process, or package.module:factory")
    command.add_argument("--workers", metavar="N", help="how many tasks run at a time: a number, or auto")
    command.add_argument("--dry-run", action="store_true", help="show what would run, and why")
    command.add_argument("--resume", action="store_true", help="continue the last run: reuse what succeeded")
    command.add_argument("--run", metavar="ID", help="with --resume: continue that run")
    command.add_argument("--format", choices=["text", "json"], help="with --dry-run: how to answer")
