"""The command that continues a run: what was typed, with ``--ff-resume``."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

__all__ = ["resume_command"]

#: Options that were about this run only; those on the left have a value.
_WITH_VALUE = ("--ff-run", "--ff-force", "--ff-replay")
_FLAGS = ("--ff-resume", "--ff-explain", "--ff-save", "--ff-rerun-unsafe")


def resume_command(config: pytest.Config) -> str:
    """Return the command that continues the run of this session, to be pasted into a shell in the same folder."""
    typed = [os.fspath(argument) for argument in config.invocation_params.args]
    return shlex.join(["pytest", *_kept(typed), "--ff-resume"])


def _kept(arguments: Iterable[str]) -> Iterator[str]:
    skip = False
    joined = ""
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if joined:
            yield f"{joined}={argument}"
            joined = ""
        elif skip:
            skip = False
        elif argument == "--ff-checkpoint":
            # In two words pytest would take the folder, now that it exists, for a place in the project.
            joined = argument
        elif name in _WITH_VALUE:
            skip = not equals
        elif name not in _FLAGS:
            yield argument
