"""Calls on a Dask cluster: the same for whoever makes them, and nothing of pytest.

``orders`` is what workers do, with ``importing`` and ``results``; ``watchdog`` what the scheduler does for us; ``pool``
the pool of calls, ``stopping`` what ends those that nobody wants, ``values`` what stays, ``workers`` who is there,
``likeness`` what has to be the same there. ``connecting`` is how a cluster is found or started, ``leash`` what ends one
with its run. ``distributed`` is imported when a cluster is wanted, and not before.
"""
