"""The errors a user of pytest-flowforge can meet.

Every one of them names the thing, the rule and the way out::

    FlowforgeError
    ├── GraphError            the tasks do not form a valid graph (carries every Problem found)
    ├── SelectionError        a ``--ff-select`` expression that can not be read
    ├── UnknownTask           a task was named that the graph does not hold
    ├── IllegalMove           a task was asked to change state in a way the table does not allow
    ├── CheckpointError       what was kept of earlier runs can not be used
    │   ├── CheckpointDamaged     it was changed by something else than us
    │   ├── CheckpointVersion     it was written by a newer version
    │   ├── CheckpointLocked      another run uses it
    │   │   └── LeaseLost             another run has taken over the store it is in
    │   ├── CheckpointUnsafe      others can write it, or something else stands in its place
    │   ├── CheckpointUnwritable  the disk is full, broken or read-only
    │   └── CheckpointUnreachable the store at its URL does not answer, or refuses
    ├── ClusterError          a cluster can not make our calls
    │   └── ClusterUnreachable    its scheduler does not answer, or it could not be started
    ├── SkipTask              a task says that there is nothing to do
    ├── TaskFailed            a task did not succeed, and there is no exception of its own that could say so
    ├── WorkflowError         a workflow in code was asked for something that can not be done
    └── ResultError           a result can not be stored or loaded
        ├── ResultUnstorable      it can not be pickled
        ├── ResultMissing         it is not there any more
        ├── ResultDamaged         its bytes are not those that were stored, or it can not be rebuilt from them
        └── ResultRefused         nobody vouches for it, or its codec is not allowed here
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointLocked",
    "CheckpointUnreachable",
    "CheckpointUnsafe",
    "CheckpointUnwritable",
    "CheckpointVersion",
    "ClusterError",
    "ClusterUnreachable",
    "FlowforgeError",
    "GraphError",
    "IllegalMove",
    "LeaseLost",
    "Problem",
    "ResultDamaged",
    "ResultError",
    "ResultMissing",
    "ResultRefused",
    "ResultUnstorable",
    "SelectionError",
    "SkipTask",
    "TaskFailed",
    "UnknownTask",
    "WorkflowError",
]


class FlowforgeError(Exception):
    """The root of every error that pytest-flowforge raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a flow, ready to be shown.

    ``where`` is ``file:line`` (or empty when there is no such place), ``text`` one or more lines
    that name the thing, the rule it breaks and the way out.
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


class GraphError(FlowforgeError):
    """The tasks do not form a valid graph.

    All problems are reported at once: ``problems`` holds them in the order of the files.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SelectionError(FlowforgeError):
    """A selection expression that can not be read or that names nothing."""


class ClusterError(FlowforgeError):
    """A Dask cluster can not make our calls, or there is no Dask here."""


class ClusterUnreachable(ClusterError):
    """The scheduler of a Dask cluster does not answer, or a cluster could not be started here."""


class SkipTask(FlowforgeError):
    """Raised by a task that has nothing to do, with the reason; ``pytest.skip()`` does the same."""


class TaskFailed(FlowforgeError):
    """A task did not succeed: it timed out, crashed, was interrupted, blocked or skipped, or did not run.

    The text says which task, and why. What a task has raised itself is raised as it is, and not as this.
    """


class WorkflowError(FlowforgeError):
    """A workflow in code was asked for something that can not be done."""


class UnknownTask(FlowforgeError, KeyError):
    """A task id was used that the graph does not hold."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should stay a sentence.
        return str(self.args[0]) if self.args else ""


class IllegalMove(FlowforgeError):
    """A task was asked to change state in a way the table of moves does not allow."""


class CheckpointError(FlowforgeError):
    """What was kept of earlier runs can not be used."""


class CheckpointDamaged(CheckpointError):
    """A journal was changed by something else than us; nothing in it is used silently."""


class CheckpointVersion(CheckpointError):
    """A checkpoint was written by a newer version; it is refused, not guessed at."""


class CheckpointLocked(CheckpointError):
    """Another run uses the checkpoint."""


class LeaseLost(CheckpointLocked):
    """Another run may use the store of the checkpoint by now: the one that had it was not heard of for too long."""


class CheckpointUnsafe(CheckpointError):
    """A folder that others can write, or something that is no plain file or folder where one should be."""


class CheckpointUnwritable(CheckpointError):
    """Something could not be written: the disk is full, broken or read-only."""


class CheckpointUnreachable(CheckpointError):
    """The store at the URL of a checkpoint does not answer, or refuses what was asked of it."""


class ResultError(FlowforgeError):
    """A result can not be stored or loaded.

    ``reason`` is what a resumed run says of it: ``result missing``.
    """

    reason = "result damaged"


class ResultUnstorable(ResultError):
    """A value can not be pickled; the message names what inside of it, and where."""

    reason = "result missing"


class ResultMissing(ResultError):
    """A stored result is not there any more."""

    reason = "result missing"


class ResultDamaged(ResultError):
    """The bytes of a result are not those that were stored, or its value can not be rebuilt from them."""


class ResultRefused(ResultError):
    """A result that nobody vouches for, or in a codec that is not allowed here. None of it was executed."""

    reason = "result refused"
