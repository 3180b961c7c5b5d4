"""Collecting one more flow file in the middle of a session, because a reference leads into it.

The folders above it are taken over where the session has collected them: pytest ties the fixtures of a conftest.py to
the very object that stands for its folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin.collecting import FlowModule
from pytest_flowforge.plugin.items import adopt
from pytest_flowforge.plugin.pytest_internals import collect_children

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["collect_file"]


def collect_file(session: pytest.Session, path: Path, known: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Collect the flow file at *path* through the hooks of pytest; *known* are the items there are already."""
    folder = _folder(session, path.parent, _folders(known))
    found = session.gethookproxy(path).pytest_collect_file(file_path=path, parent=folder)
    modules = [collector for collector in found if isinstance(collector, FlowModule)]
    # A file that was named in a reference is a flow file, whatever it is called.
    modules = modules or [FlowModule.from_parent(folder, path=path)]
    items = [item for module in modules for item in session.genitems(module)]
    adopt(items)
    return items


def _folders(items: Iterable[pytest.Item]) -> dict[Path, pytest.Collector]:
    files = {item.path: item for item in items}
    chains = (item.listchain() for item in files.values())
    return {node.path: node for chain in chains for node in chain if isinstance(node, pytest.Directory)}


def _folder(session: pytest.Session, path: Path, known: dict[Path, pytest.Collector]) -> pytest.Collector:
    """The collector for the folder *path*, made from the nearest folder above it that is known."""
    root = session.config.rootpath
    inside = path.is_relative_to(root)
    missing = []
    above = path
    while above not in known and (above == path or (inside and above.is_relative_to(root))):
        missing.append(above)
        above = above.parent
    node: pytest.Collector = known.get(above, session)
    for folder in reversed(missing):
        made = session.gethookproxy(folder.parent).pytest_collect_directory(path=folder, parent=node)
        if made is not None:
            # Collecting a folder loads its conftest.py; the files beside the wanted one are left alone.
            collect_children(made)
            node = known[folder] = made
    return node
