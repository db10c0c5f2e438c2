"""Keys of files: daemon settings, policies, and what a task's own file may say."""

import re
from collections.abc import Mapping

import attrs

from hivemind.core import inline_metadata
from hivemind.core.sizes import format_duration
from hivemind.settings.daemon import (
    MASTER_KEYS,
    WORKER_KEYS,
    MasterConfig,
    WorkerConfig,
    format_address,
)
from hivemind.settings.policies import POOL_KEYS, PROFILE_KEYS, installed_policies
from hivemind.settings.tables import Key
from tools.reference.fields import Undescribed, descriptions, table

_TASK_FIELDS = {
    "cpu_time": "cpu_s",
    "cpus": "cpu_millis",
    "max_cpt": "max_ucpt",
    "memory": "memory_bytes",
    "scratch": "scratch_bytes",
    "time": "wall_s",
    "tmp": "tmp_bytes",
    "trust": "least_trust",
}


def key_lines() -> list[str]:
    """The sections on files."""
    return [
        *("## Settings of a master", ""),
        "In the file that `hivemind master --config` names. Flags win over variables, variables "
        "over the file.",
        "",
        *_config(MASTER_KEYS, MasterConfig),
        *("## Settings of a worker", ""),
        "In the file that `hivemind worker --config` names; flags and variables as for a master.",
        "",
        *_config(WORKER_KEYS, WorkerConfig),
        *("## Policies", ""),
        "A file `HOME/policies/NAME.toml` replaces the one of its name that came with HiveMind, or "
        "adds one. SIGHUP reads them again.",
        "",
        *_policy("default.toml, and any other but pool.toml", "default.toml", PROFILE_KEYS),
        *_policy("pool.toml", "pool.toml", POOL_KEYS),
        *("## What a task's own file may say", ""),
        "In the table `[tool.hivemind]` of a script's inline metadata, or at the top of a folder's "
        "or archive's `hivemind.toml`. Flags win over it.",
        "",
        *_task_file(),
    ]


def _config(keys: Mapping[str, Key], record: type[attrs.AttrsInstance]) -> list[str]:
    described = descriptions(record)
    fields = attrs.fields_dict(record)
    rows = []
    for name, key in keys.items():
        field = key.field or name
        if field not in described:
            raise Undescribed(f"{record.__name__}.{field}")
        rows.append((f"`{name}`", _default(fields[field]), described[field]))
    return table(("key", "default", "meaning"), rows)


def _default(field: "attrs.Attribute[object]") -> str:
    value = field.default
    if value is attrs.NOTHING or value is None or value == "":
        return ""
    if isinstance(value, tuple):
        return f'`"{format_address(*value)}"`'
    if isinstance(value, float) and field.name.endswith("_s"):
        return f'`"{format_duration(value)}"`'
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _policy(title: str, file: str, keys: Mapping[str, Key]) -> list[str]:
    text = (installed_policies() / file).read_text()
    found = _explained(text)
    if missing := sorted(keys.keys() - found.keys()):
        raise Undescribed(f"{missing[0]} of {file}")
    rows = [(f"`{name}`", f"`{found[name][0]}`", found[name][1]) for name in keys]
    return [f"### {title}", "", *table(("key", "as shipped", "meaning"), rows)]


def _explained(text: str) -> dict[str, tuple[str, str]]:
    """By key: its value as it stands there, and the comment right above it."""
    found = {}
    comment: list[str] = []
    for line in text.splitlines():
        setting = re.fullmatch(r"(\w+) = (.*)", line)
        if setting is not None and comment:
            found[setting[1]] = (setting[2], " ".join(comment))
        comment = [*comment, line[2:]] if line.startswith("# ") else []
    return found


def _task_file() -> list[str]:
    described = descriptions(inline_metadata.FileSettings)
    rows = []
    for name in inline_metadata.KEYS:
        field = _TASK_FIELDS.get(name, name)
        if field not in described:
            raise Undescribed(f"FileSettings.{field}")
        rows.append((f"`{name}`", described[field]))
    return table(("key", "meaning"), rows)
