"""What a task is made of, and what is said when that changes."""

from __future__ import annotations

import re

import pytest

from pytest_flowforge.core.fingerprint import Fingerprint, digest_of, explain


def test_texts_do_not_run_into_each_other() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc")
    assert digest_of("a", "") != digest_of("a")
    assert digest_of("1:a") != digest_of("a")
    assert re.fullmatch("[0-9a-f]{32}", digest_of("\ud800"))


def test_what_changed_is_said_by_name() -> None:
    assert explain({}, {}) == ""
    assert explain({"a": "1", "b": "2", "c": "3"}, {"b": "0", "c": "3", "d": "4"}) == "a removed, b changed, d added"


BEFORE = Fingerprint("c", "p", (("input raw/a.csv", "1"), ("version", "2")))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (BEFORE, ""),
        (Fingerprint("d", "q", BEFORE.extra), "code changed"),
        (Fingerprint("c", "q", ()), "parameter changed"),
        (Fingerprint("c", "p", (("input raw/a.csv", "9"), ("version", "3"))), "input raw/a.csv changed"),
        (Fingerprint("c", "p", (("version", "2"),)), "input raw/a.csv removed"),
        (Fingerprint("c", "p", (*BEFORE.extra, ("env MODEL", "0"))), "env MODEL added"),
    ],
)
def test_the_most_telling_change_is_said(now: Fingerprint, said: str) -> None:
    assert BEFORE.change(now) == said
