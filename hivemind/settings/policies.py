"""Policy files: one table for each profile, and the pool's rules.

A file is named for its profile; ``pool.toml`` holds the pool's rules. Those of the installation
are overridden file by file by ``HOME/policies``: a file there replaces the whole one of its name.
Every key is a field of core's record.
"""

import math
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import attrs

from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.limits import LIMITS, Limit
from hivemind.core.policy import LEAST, Bound, PoolRules, Profile
from hivemind.settings import values
from hivemind.settings.errors import BadSetting
from hivemind.settings.tables import Key, read_table, structure

POOL = "pool"

_SUFFIX = ".toml"
_PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@attrs.frozen(kw_only=True)
class Policies:
    """Every policy in force."""

    profiles: Mapping[str, Profile]
    pool: PoolRules
    sources: Mapping[str, Path]
    """For each profile, and for ``pool``, the file that it was read from."""


def read_profile(path: Path) -> Profile:
    """A profile, named for its file. Raises BadSetting."""
    name = path.stem
    if not _PROFILE_NAME.fullmatch(name):
        raise BadSetting(
            f"{path}: a profile's file is named with lower-case letters, digits, - and _"
        )
    return structure(
        Profile, read_table(path), PROFILE_KEYS, source=str(path), given={"name": name}
    )


def read_pool_rules(path: Path) -> PoolRules:
    """The pool's rules. Raises BadSetting."""
    rules = structure(PoolRules, read_table(path), POOL_KEYS, source=str(path))
    if rules.heartbeat_s >= rules.lease_s:
        raise BadSetting(f"{path}: lease_s: it must be longer than heartbeat_s")
    if rules.push_probe_s >= rules.push_lease_s:
        raise BadSetting(f"{path}: push_lease_s: it must be longer than push_probe_s")
    if rules.retry_backoff_s > rules.retry_backoff_most_s:
        raise BadSetting(f"{path}: retry_backoff_s: it is longer than retry_backoff_most_s")
    return rules


def read_policy_file(path: Path) -> None:
    """Whether the file could be used, as a profile or as the pool's rules. Raises BadSetting."""
    if path.suffix != _SUFFIX:
        raise BadSetting(f"{path}: a policy's file is named NAME{_SUFFIX}")
    if path.stem == POOL:
        read_pool_rules(path)
    else:
        read_profile(path)


def load_policies(home: Path | None) -> Policies:
    """The installation's policies, and what a home has in their place.

    Raises BadSetting for the first file that cannot be used: then none of them is.
    """
    files = dict(_policy_files(installed_policies()))
    if home is not None:
        files.update(_policy_files(home / "policies"))
    pool = read_pool_rules(files[POOL]) if POOL in files else PoolRules()
    profiles = {name: read_profile(path) for name, path in sorted(files.items()) if name != POOL}
    return Policies(profiles=profiles, pool=pool, sources=files)


def policy_files(folder: Path) -> list[Path]:
    """The policy files of a folder, in order. Raises BadSetting where it cannot be read."""
    return sorted(path for _, path in _policy_files(folder))


def installed_policies() -> Path:
    """The folder of the policies that came with the installation, or with the checkout."""
    package = Path(str(resources.files("hivemind")))
    shipped = package / "_policies"
    return shipped if shipped.is_dir() else package.parent / "policies"


def _policy_files(folder: Path) -> Iterator[tuple[str, Path]]:
    try:
        for path in folder.iterdir():
            if path.suffix == _SUFFIX:
                yield path.stem, path
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        # A home that is no folder has no policies; whoever makes it says what is wrong with it.
        if folder.parent.is_dir():
            raise BadSetting(f"{folder} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise BadSetting(f"{folder} cannot be read: {error.strerror}") from error


_MOST_COUNT = 2**31
_LIMITS: Mapping[str, Limit] = {limit.key: limit for limit in LIMITS}


def _bound(
    field: str, read: values.Reader[float], *, read_default: values.Reader[float] | None = None
) -> Key:
    """The key of a profile's bound, whose missing half is the record's own."""
    base: Bound = getattr(Profile(name=field), field)
    if field in LEAST:
        show, most = _LIMITS[field].show, math.inf if read is not values.count else _MOST_COUNT
        read = values.between(read, LEAST[field], most, show)
    return Key(read=values.bound(read, base, read_default=read_default))


PROFILE_KEYS: Mapping[str, Key] = {
    "description": Key(read=values.text),
    "accounts": Key(read=values.texts),
    "root": Key(read=values.root),
    "mounts": Key(read=values.mounts),
    "memory": _bound("memory", values.size),
    "scratch": _bound("scratch", values.size),
    "scratch_inodes": _bound("scratch_inodes", values.count),
    "tmp": _bound("tmp", values.size),
    "tmp_inodes": _bound("tmp_inodes", values.count),
    "shm": _bound("shm", values.size),
    "shm_inodes": _bound("shm_inodes", values.count),
    "cpus": _bound("cpus", values.number),
    "gpus": _bound("gpus", values.count),
    "wall": _bound("wall", values.duration),
    "cpu_time": _bound("cpu_time", values.limited_duration),
    "pids": _bound("pids", values.count),
    "file_size": _bound("file_size", values.size),
    "open_files": _bound("open_files", values.count),
    "output": _bound("output", values.size),
    "result": _bound("result", values.size),
    "retries": _bound("retries", values.count),
    "priority": _bound("priority", values.count, read_default=values.signed),
    "network": Key(read=values.mode(Network)),
    "seccomp": Key(read=values.mode(Seccomp)),
    "env": Key(read=values.variables),
    "reuse": Key(read=values.mode(Reuse)),
    "cell_runs": Key(read=values.at_least_one),
    "cell_age": Key(read=values.some_duration),
    "parked": Key(read=values.count),
    "warm_python": Key(read=values.flag),
}

POOL_KEYS: Mapping[str, Key] = {
    "registration": Key(read=values.choice("auto", "open", "invite")),
    "local_nodes": Key(read=values.choice("auto", "allow", "refuse")),
    "lease_s": Key(read=values.some_duration),
    "heartbeat_s": Key(read=values.some_duration),
    "stop_grace_s": Key(read=values.some_duration),
    "time_limit_grace_s": Key(read=values.some_duration),
    "push_probe_s": Key(read=values.some_duration),
    "push_lease_s": Key(read=values.some_duration),
    "push_accept_s": Key(read=values.some_duration),
    "crash_limit": Key(read=values.at_least_one),
    "refusal_bar_s": Key(read=values.duration),
    "retry_backoff_s": Key(read=values.some_duration),
    "retry_backoff_most_s": Key(read=values.some_duration),
    "token_ttl_s": Key(read=values.some_duration),
    "node_token_ttl_s": Key(read=values.some_duration),
    "join_token_ttl_s": Key(read=values.some_duration),
    "retention_s": Key(read=values.limited_duration),
    "payload_bytes": Key(read=values.some_size),
    "uploads_in_flight_bytes": Key(read=values.some_size),
    "queue_per_account": Key(read=values.at_least_one),
    "kept_bytes_per_account": Key(read=values.some_size),
    "logins_per_minute": Key(read=values.at_least_one),
    "transfers_per_minute": Key(read=values.at_least_one),
    "key_grace_s": Key(read=values.duration),
    "grant_cpt": Key(read=values.cpt, field="grant_ucpt"),
    "price_cpu_cpt": Key(read=values.cpt, field="price_cpu_ucpt"),
    "price_memory_gb_cpt": Key(read=values.cpt, field="price_memory_gb_ucpt"),
    "price_gpu_cpt": Key(read=values.cpt, field="price_gpu_ucpt"),
    "price_gpu_memory_gb_cpt": Key(read=values.cpt, field="price_gpu_memory_gb_ucpt"),
    "price_least_cpt": Key(read=values.cpt, field="price_least_ucpt"),
}
