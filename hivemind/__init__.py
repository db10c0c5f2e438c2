"""HiveMind: a handful of Linux machines as one metered compute pool.

Start with ``hivemind/README.md``, which follows a task from ``hivemind run`` to the sandbox and
back. Importing this package imports nothing else.
"""

__all__ = ["version"]


def version() -> str:
    """The installed version of the distribution, such as ``0.1.0``."""
    from importlib import metadata  # thirty milliseconds that most commands need not pay

    return metadata.version("hivemind-pool")
