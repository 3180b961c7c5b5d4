"""Options about a Dask cluster. Loaded in every pytest session, so it imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ONLY_FOR_CLUSTERS", "ClusterOptions", "add_cluster_options", "number_from"]

#: Options that mean that tasks run on a cluster.
ONLY_FOR_CLUSTERS = ("ff-dask-address", "ff-dask-timeout")


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What was said about the cluster."""

    #: The scheduler of a running cluster, or a scheduler file; empty for a cluster of our own.
    address: str
    #: Whether that was said on the command line.
    address_given: bool
    #: Seconds that the scheduler may be silent.
    timeout: float
    #: Bytes of a result that is fetched to be kept, where workers can not keep it.
    fetched: int
    #: Pools that are resources of workers, too, with what Dask calls these.
    resources: Mapping[str, str]

    @classmethod
    def of(cls, config: pytest.Config) -> ClusterOptions:
        """Read the options of *config*; raises UsageError for a value that can not be meant."""
        given = config.getoption("ff_dask_timeout")
        megabytes = number_from("ini flowforge_dask_fetch", str(config.getini("flowforge_dask_fetch")), "megabytes")
        text = str(config.getini("flowforge_dask_timeout")) if given is None else str(given)
        address = config.getoption("ff_dask_address")
        return cls(
            address=str(config.getini("flowforge_dask_address")) if address is None else str(address),
            address_given=bool(address),
            timeout=_patience("ini flowforge_dask_timeout" if given is None else "--ff-dask-timeout", text),
            fetched=int(megabytes * 1e6),
            resources=dict(map(_resource, config.getini("flowforge_dask_resources"))),
        )


def add_cluster_options(parser: pytest.Parser) -> None:
    """Add the options and ini values about Dask."""
    add = parser.getgroup("flowforge").addoption
    add(
        "--ff-dask-address",
        metavar="ADDRESS",
        help="Run tasks on the Dask cluster whose scheduler is at tcp://HOST:PORT or tls://HOST:PORT, or is described "
        "by this scheduler file; without it, --ff-executor dask starts a cluster on this machine.",
    )
    add(
        "--ff-dask-timeout",
        metavar="SECONDS",
        help="How long the scheduler may be silent before the cluster counts as lost (default 30).",
    )
    parser.addini("flowforge_dask_address", "Dask scheduler when --ff-dask-address is not given", default="")
    parser.addini("flowforge_dask_timeout", "seconds when --ff-dask-timeout is not given", default="30")
    parser.addini(
        "flowforge_dask_fetch",
        "megabytes of a result that is fetched from a cluster to be kept, where its workers can not keep it",
        default="64",
    )
    parser.addini(
        "flowforge_dask_resources",
        "pools that are resources of Dask workers too, NAME or NAME=RESOURCE each",
        type="args",
        default=[],
    )


def number_from(source: str, text: str, what: str) -> float:
    """Return the number of *what* that *text* is, from 0 on; raise UsageError, which names *source*, for any other."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        msg = f"{source}: {text[:100]!r} is no number of {what}; give 0 or more"
        raise pytest.UsageError(msg)
    return number


def _patience(source: str, text: str) -> float:
    number = number_from(source, text, "seconds")
    if not number:
        msg = f"{source}: nobody answers within 0 seconds; give more"
        raise pytest.UsageError(msg)
    return number


def _resource(line: str) -> tuple[str, str]:
    pool, _, resource = line.partition("=")
    if not pool.strip():
        msg = f"ini flowforge_dask_resources: {line[:100]!r} names no pool; write NAME, or NAME=RESOURCE"
        raise pytest.UsageError(msg)
    return pool.strip(), resource.strip() or pool.strip()
