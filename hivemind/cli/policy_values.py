"""A policy's values as people write them in its file."""

from hivemind.core.limits import LIMITS, show_bytes, show_number, show_seconds
from hivemind.core.policy import Mount
from hivemind.settings.origins import Setting

_SHOW = {limit.key: limit.show for limit in LIMITS} | {"cell_age": show_seconds}


def shown_value(setting: Setting) -> str:
    """In the words of the file, but for quotes around words."""
    value, key = setting.value, setting.key.partition(".")[0]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if key.endswith("_s"):
            return show_seconds(value)
        return _SHOW.get(key, show_bytes if key.endswith("_bytes") else show_number)(value)
    if isinstance(value, tuple):
        return ", ".join(map(_shown_item, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items()) or "none"
    return str(value)


def _shown_item(item: object) -> str:
    return f"{item.source} at {item.target}" if isinstance(item, Mount) else str(item)
