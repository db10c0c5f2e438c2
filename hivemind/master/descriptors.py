"""How many files and connections the master may have open, and the pushed nodes' share of that."""

import resource

_WANTED = 65536
_OTHERS = 600
"""What the server's own connections, the store and logs may take."""
_FILES_FOR_EACH = 4
_LEAST, _MOST = 32, 4096


def connections_for_nodes() -> int:
    """Raise this process's limit as far as it goes; how many nodes may be connected to at once.

    Each takes a descriptor, and some more while it is sent large tasks.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    there = _WANTED if soft == resource.RLIM_INFINITY else soft
    return max(_LEAST, min(_MOST, (there - _OTHERS) // (1 + _FILES_FOR_EACH)))
