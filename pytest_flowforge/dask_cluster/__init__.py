"""Calls on a Dask cluster: the same for whoever makes them, and nothing of pytest.

``orders`` is what workers do, ``watchdog`` what the scheduler does for us, ``pool`` the pool of calls, ``connecting``
how a cluster is found or started, ``leash`` what ends one with its run. ``distributed`` is imported when a cluster is
wanted, and not before.
"""
