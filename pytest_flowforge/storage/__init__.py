"""A checkpoint on a folder: the journals of runs, and the results of their tasks.

``places`` knows the folder and what is where in it, ``journal`` writes and reads what happened, ``values`` keeps
results (``segments`` the small and ``blobs`` the large ones, as ``codec`` encodes them), ``locks`` lets one run at a
time in, ``syncing`` makes things survive a power cut. All of it goes through ``files``. Nothing here decides what runs,
and nothing here imports pytest.
"""
