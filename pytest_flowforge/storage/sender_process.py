"""Keeps a store in step with the folder of a run, by a process of its own.

A task that holds the interpreter for minutes does not cost the lease, tasks may replace what they like (the time, the
network, the environment of AWS), and no thread of ours is there when they fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_flowforge import errors
from pytest_flowforge.errors import CheckpointError, CheckpointUnreachable
from pytest_flowforge.storage.addresses import Address, censored
from pytest_flowforge.storage.files import Files
from pytest_flowforge.storage.locks import Holder
from pytest_flowforge.storage.objects import Objects
from pytest_flowforge.storage.places import Place
from pytest_flowforge.storage.sender import SLOW, Sender, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import RawIOBase

__all__ = ["SenderProcess", "serve"]

#: Seconds that are waited when that is to be as long as it takes.
_FOR_EVER = 1e9

#: Seconds in which the process is to end when it was told to.
_PATIENCE = 5.0

#: Seconds between two signs of life while it sends the rest, and after which one that gives none is ended.
_SIGN, _STUCK = 1.0, 20.0

#: What that process does first. It finds the modules that this one does.
_COMMAND = "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); from {} import serve; serve()"

#: What may be asked for.
_ASKED = ("take", "pull", "fetch", "begin", "replace_journal", "prune", "give_up")


class SenderProcess:
    """A :class:`Sender` in a process that ends with this one, however that ends.

    It is asked by lines of JSON. What it raises comes back as the same error; how it was started, and what it knows of
    the store, stays there.
    """

    def __init__(self, address: Address, path: Path, interval: float) -> None:
        self._url = address.url
        self._path = path
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._number = 0
        #: For how many seconds that this process has run nothing was heard of the other one.
        self._silent = 0.0
        #: Whether there was no answer to the last question.
        self._waits = False
        self._process = subprocess.Popen(  # noqa: S603  (this interpreter, and a command of ours)
            [sys.executable, "-I", "-c", _COMMAND.format(__name__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Whatever libraries print there may hold secrets.
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the run: it says when it has ended.
            start_new_session=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            msg = "a process without pipes"
            raise CheckpointError(msg)
        # Out of the way of tasks that close what they do not know.
        files = Files()
        self._out = os.fdopen(files.high(os.dup(self._process.stdin.fileno())), "wb", buffering=0)
        self._in = os.fdopen(files.high(os.dup(self._process.stdout.fileno())), "rb")
        self._process.stdin.close()
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            self._write(list(map(str, sys.path)))
        holder = json.loads(Holder.here("").facts())
        try:
            # Places are opened by the process that is asked, so that is where things go wrong.
            self._ask("open", url=address.url, path=str(path), interval=interval, holder=holder, parent=os.getpid())
        except BaseException:
            self._close()
            raise

    def take(self, wait: float) -> None:
        self._ask("take", wait=min(wait, _FOR_EVER))

    def pull(self, *, settles: bool) -> list[str]:
        return list(self._ask("pull", settles=settles))

    def fetch(self, run: str, name: str, end: int) -> bool:
        return bool(self._ask("fetch", run=run, name=name, end=end))

    def begin(self, run: str) -> None:
        self._ask("begin", run=run)

    def replace_journal(self, run: str) -> None:
        self._ask("replace_journal", run=run)

    def prune(self, gone: Sequence[str]) -> None:
        self._ask("prune", gone=list(gone))

    def end(self, gone: Sequence[str], patience: float, on_slow: Callable[[], None] = nothing) -> tuple[list[str], str]:
        if os.getpid() != self._owner:
            return [], ""
        slow = _later(SLOW, on_slow)
        try:
            # It ends by itself when the store is silent for too long, and says all the time that it is there.
            with self._within(_STUCK):
                news, unsent = self._ask("end", gone=list(gone), patience=patience)
        except CheckpointError as error:
            news, unsent = [], f"nobody knows what of {self._path} is not in {self._url}: {error}"
        finally:
            slow.cancel()
            self._close()
        return news, unsent

    def give_up(self) -> None:
        if os.getpid() == self._owner:
            self._end_what_waits()
            with contextlib.suppress(CheckpointError), self._within(_PATIENCE):
                self._ask("give_up")
            self._close()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """End the process where nothing was heard of it for *seconds*.

        They are counted, and not read off a clock: who was suspended (Ctrl-Z) has not read what was said meanwhile.
        """
        is_over = threading.Event()
        self._silent = 0.0

        def count() -> None:
            while not is_over.wait(_SIGN):
                self._silent += _SIGN
                if self._silent >= seconds:
                    self._process.kill()
                    return

        threading.Thread(target=count, name="flowforge-sender", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()

    def _ask(self, what: str, **rest: Any) -> Any:
        with self._lock:
            self._number += 1
            self._waits = True
            try:
                self._write({"number": self._number, "do": what, **rest})
                answer = self._answer()
            except (OSError, ValueError):
                msg = (
                    f"the process that sends to {self._url} has ended: the next run of this machine with the same"
                    " --ff-checkpoint sends what is missing there"
                )
                raise CheckpointUnreachable(msg) from None
            self._waits = False
        if "raises" in answer:
            kind = getattr(errors, answer["raises"], CheckpointError)
            raise kind(answer["text"])
        return answer["returns"]

    def _answer(self) -> dict[str, Any]:
        """Return the answer to the last question; raise ValueError when there is none."""
        while True:
            answer: dict[str, Any] = json.loads(self._in.readline())
            # Others are to a question whose asker was interrupted.
            if answer["number"] == self._number:
                if "busy" not in answer:
                    return answer
                self._silent = 0.0

    def _write(self, message: Any) -> None:
        rest = memoryview(json.dumps(message).encode("ascii") + b"\n")
        while rest:
            rest = rest[self._out.write(rest) or 0 :]

    def _end_what_waits(self) -> None:
        """End the process where it is at something whose end nobody waits for any more: that may take long."""
        if self._waits:
            self._process.kill()

    def _close(self) -> None:
        """End the process: it reads no more."""
        self._end_what_waits()
        with contextlib.suppress(OSError):
            self._out.close()
        with contextlib.suppress(OSError):
            self._in.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """Do what comes as lines from the standard input, as the process of a :class:`SenderProcess`."""
    sys.stdout.flush()
    # Whatever prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sender: Sender | None = None
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        number, what = asked.pop("number"), asked.pop("do")
        answer: dict[str, Any] = {"number": number}
        try:
            if what == "open":
                _die_with(asked.pop("parent"))
                sender = _opened(**asked)
                answer["returns"] = None
            elif sender is not None and what == "end":
                answer["returns"] = sender.end(**asked, on_wait=_Signs(answers, number))
            elif sender is not None and what in _ASKED:
                answer["returns"] = getattr(sender, what)(**asked)
        except CheckpointError as error:
            answer |= {"raises": type(error).__name__, "text": str(error)}
        except Exception as error:  # noqa: BLE001  (nobody sees a traceback of this process)
            answer |= {"raises": "CheckpointError", "text": f"{type(error).__name__}: {censored(str(error))}"}
        answers.write(json.dumps(answer).encode("ascii") + b"\n")
    # Threads that are in the middle of something are not waited for.
    os._exit(0)


class _Signs:
    """Says every now and then that the question *number* is being worked at."""

    def __init__(self, answers: RawIOBase, number: int) -> None:
        self._answers = answers
        self._text = json.dumps({"number": number, "busy": True}).encode("ascii") + b"\n"
        self._said = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._said >= _SIGN:
            self._said = now
            self._answers.write(self._text)


def _opened(url: str, path: str, interval: float, holder: dict[str, Any]) -> Sender:
    objects = Objects.at(Address.of(url))
    return Sender(objects, Place.open(Path(path)), Holder.of(json.dumps(holder).encode("ascii")), interval)


def _die_with(parent: int) -> None:
    """End when *parent* has; a process that a task has forked may hold the pipe open for longer."""
    if sys.platform == "win32":
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="flowforge-parent", daemon=True).start()


#: Seconds between two looks whether the parent is there.
_LOOK = 0.25


def _later(seconds: float, act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    return timer
