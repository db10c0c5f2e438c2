"""The durable store: what the master must know again after a crash.

``api`` is the interface, its promises and its errors; ``changes`` holds what goes in (one turn of
the reactor is one ``Changes``, committed as one transaction) and what comes out. ``sqlite`` is the
store that daemons use, ``memory`` and ``failing`` are for tests; one contract suite holds all of
them to the same promises. ``blobs`` keeps large payloads and results as files that rows name.

Below ``sqlite``: ``opening`` judges a database file before anything in it is touched, ``schema``
brings it up to date with ``migrations/NNNN_name.sql``, ``rows`` turns records into rows and back,
``lock`` keeps a second master out. Copy a live database with ``VACUUM INTO`` or the backup API on
a connection of its own, never through the store's.

``master`` imports this package, and core is all that it imports itself. Start with ``api``.
"""
