"""The tree of errors that is drawn is the one that there is."""

from __future__ import annotations

import re

from pytest_flowforge import errors


def test_every_error_stands_below_its_parent() -> None:
    above: list[tuple[int, str]] = []
    drawn = {}
    for place, name in re.findall(r"^    ((?:[│├└─ ]{4})*)([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE):
        above = [(depth, parent) for depth, parent in above if depth < len(place)]
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((len(place), name))
    found = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert drawn == found
