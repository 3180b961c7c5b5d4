"""From options to the settings of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.keeping import Settings
from pytest_flowforge.storage.codec import JsonCodec, PickleCodec
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowforge.plugin.checkpoint_options import CheckpointOptions
    from pytest_flowforge.storage.codec import Codec

__all__ = ["codecs_of", "settings_of"]


def settings_of(config: pytest.Config, options: CheckpointOptions) -> Settings | None:
    """Return where and how runs are kept; None where they are not to be. Raises UsageError for an unknown codec."""
    if options.folder is None:
        return None
    return Settings(
        options.folder,
        options.durability,
        codecs_of(config, options.codecs),
        options.keep_runs,
        options.wait,
        options.address,
        options.interval,
        options.farewell,
    )


def codecs_of(config: pytest.Config, wanted: Sequence[str]) -> tuple[Codec, ...]:
    """Those of plugins first, then ours; only the *wanted* ones where that was said.

    Raises UsageError for an unknown one.
    """
    made = [one for one in config.hook.pytest_flowforge_make_codec(config=config) if one is not None]
    known: dict[str, Codec] = {codec.name: codec for codec in (*made, JsonCodec(), PickleCodec())}
    for name in wanted:
        if name not in known:
            msg = f"--ff-codec {quoted(name)}: there is no such codec; use {', '.join(known)}"
            raise pytest.UsageError(msg)
    return tuple(codec for name, codec in known.items() if not wanted or name in wanted)
