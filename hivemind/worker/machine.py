"""Whether what a policy names is really on this machine. Looks at the machine; changes nothing."""

import resource
from pathlib import Path

from hivemind.core.policy import HOST_ROOT, Profile
from hivemind.core.records import TaskSpec
from hivemind.worker.errors import WorkerError


class NotHere(WorkerError):
    """The machine lacks what its own policy promises; one line that names the policy's key."""


def check_machine(spec: TaskSpec, profile: Profile) -> None:
    """Raises NotHere where the task would not get all that it is to have."""
    if profile.root != HOST_ROOT and not Path(profile.root).is_dir():
        raise NotHere(
            f"root: policy {profile.name} of this machine names {profile.root}, which is not a "
            "folder here: make it, or mend the policy"
        )
    for mount in profile.mounts:
        if not Path(mount.source).exists():
            raise NotHere(
                f"mounts: policy {profile.name} of this machine names {mount.source}, which is not "
                "here: make it, or mend the policy"
            )
    # A process cannot be given more descriptors than the worker's own hard limit (setrlimit(2)).
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = spec.confinement.open_files
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise NotHere(
            f"open_files: the task is to have {wanted} and this machine's own limit is {hard}: "
            "raise that (ulimit -Hn), or mend the policy"
        )
