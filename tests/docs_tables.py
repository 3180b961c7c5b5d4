"""The tables of docs/reference.md that are made from the code: legal moves between states, and the trigger rules.

    python -m tests.docs_tables           # exit status 1 if the page does not say what the code says
    python -m tests.docs_tables --write   # make it say so

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; all else in the page is left alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_flowforge.core.model import Trigger
from pytest_flowforge.core.states import MOVES, TaskState
from pytest_flowforge.core.triggers import CLASSES, EndClass, Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["PAGE", "TABLES", "renewed"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"

_BLOCK = re.compile(r"(?P<begin><!-- table: (?P<name>\w+) -->\n).*?(?P<end><!-- end of table -->)", re.DOTALL)


def moves() -> Iterator[str]:
    """Which state may follow which."""
    yield from _row("From", "may follow")
    yield from _row("---", "---")
    for before, after in MOVES.items():
        # In the order in which the states are declared: a set has none.
        names = [state.name for state in TaskState if state in after]
        yield from _row(before.name, ", ".join(names) or "nothing: it is an end")


def triggers() -> Iterator[str]:
    """What each rule makes of each set of kinds in which upstreams have ended; numbers do not matter."""
    yield from _row("Upstreams ended as", *(f"`{when.value}`" for when in Trigger))
    yield from _row("---", *("---" for _ in Trigger))
    for kinds in _sets_of_kinds():
        ends = [_an_end(kind) for kind in kinds]
        label = " + ".join(_KINDS[kind] for kind in kinds) or "(no upstreams)"
        yield from _row(label, *(_VERDICTS[verdict(when, ends)] for when in Trigger))


#: Name in the page -> the lines of the table.
TABLES: dict[str, Callable[[], Iterable[str]]] = {"moves": moves, "triggers": triggers}


def renewed(text: str) -> str:
    """Return *text* with every table as it is to be; ValueError when it has not exactly the tables there are."""
    found = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(found) != sorted(TABLES):
        msg = f"the page has the tables {found}, and there are {sorted(TABLES)}"
        raise ValueError(msg)
    return _BLOCK.sub(lambda match: "\n".join([match["begin"], *TABLES[match["name"]](), "", match["end"]]), text)


_KINDS = {
    EndClass.SUCCEEDED: "succeeded",
    EndClass.SKIPPED: "skipped",
    EndClass.FAILED: "failed",
    EndClass.BLOCKED: "blocked",
}

_VERDICTS = {Verdict.RUN: "runs", Verdict.SKIP: "*skipped*", Verdict.BLOCK: "**blocked**"}


def _sets_of_kinds() -> Iterator[tuple[EndClass, ...]]:
    return chain.from_iterable(combinations(_KINDS, size) for size in range(len(_KINDS) + 1))


def _an_end(kind: EndClass) -> TaskState:
    return next(state for state, its_kind in CLASSES.items() if its_kind == kind)


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Compare or write."""
    parser = argparse.ArgumentParser(description="The tables of docs/reference.md that are made from the code.")
    parser.add_argument("--write", action="store_true", help="write them into the page")
    write = parser.parse_args().write
    text = PAGE.read_text(encoding="utf-8")
    wanted = renewed(text)
    if write and wanted != text:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        sys.exit(f"{PAGE}: the tables are not up to date; run `python -m tests.docs_tables --write`")


if __name__ == "__main__":
    main()
