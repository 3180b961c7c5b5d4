"""Coroutines that are run to their end where nobody awaits them.

Imported by processes that make calls, so it needs little.
"""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["run_to_its_end"]


def run_to_its_end(awaitable: Any) -> Any:
    """Return the result of *awaitable*, on an event loop of its own; on another thread where one runs on this."""
    # Most tasks are no coroutines and need not pay for a library that is large.
    import asyncio  # noqa: PLC0415

    async def result() -> Any:
        return await awaitable

    if asyncio._get_running_loop() is None:  # noqa: SLF001 - the public question is an exception
        return asyncio.run(result())
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((asyncio.run(result()), None))
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that waits
            ended.append((None, error))

    thread = threading.Thread(target=run, name="flowforge-coroutine", daemon=True)
    thread.start()
    thread.join()
    value, error = ended[0]
    if error is not None:
        raise error
    return value
