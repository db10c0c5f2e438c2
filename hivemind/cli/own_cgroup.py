"""A cgroup of our own for what runs tasks, where this user has to ask systemd for one."""

import os
import sys


def enter_own_cgroup() -> None:
    """Go on in a delegated scope of the user's systemd, where limits need one and it gives one.

    Returns where that is not needed or cannot be had; else this program is started anew in it.
    """
    from hivemind.worker.scope import enter_scope

    enter_scope(sys.argv, os.environ, has_cgroup=_has_cgroup)


def _has_cgroup() -> bool:
    import sandbox
    from sandbox.cgroups import open_pool_cgroup

    try:
        open_pool_cgroup("hivemind").close()
    except sandbox.Unavailable:
        return False
    return True
