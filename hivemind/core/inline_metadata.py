"""What a task's own file says of how to run it.

A script says it in the table ``[tool.hivemind]`` of its inline metadata, a comment block that opens
with ``# /// script`` and closes with ``# ///`` (PEP 723). An archive says it in a file
``hivemind.toml`` at its top, whose top-level keys are those of that table. Flags win over both.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs

from hivemind.core import sizes
from hivemind.core.confinement import Mode, Network, Reuse, Seccomp
from hivemind.core.cpt import BadAmount, parse_cpt
from hivemind.core.errors import CoreError
from hivemind.core.outputs import BadOutput, check_outputs, clean_output
from hivemind.core.trust import BadTrust, parse_trust
from hivemind.core.wording import one_line

BLOCK_BYTES = 64 * 1024
"""The most that a block or a ``hivemind.toml`` may hold; a person writes a few lines."""
SCRIPT_BYTES = 4 * 1024 * 1024
"""Of an uploaded script, what is looked through for its settings; nobody writes so much by hand."""
FILE_NAME = "hivemind.toml"

_OPENING = "# /// script"
_CLOSING = "# ///"
_CONTENT = re.compile(r"#(?: .*)?")
_MOST_COUNT = 1 << 32
"""What a message has room for."""
_PART = r'(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|\'[^\'\n]*+\')[ \t]*+'
_DEEP_KEY = re.compile(rf"(?<![^\s\[{{,])(?:{_PART}\.[ \t]*+){{32}}")
"""A key, or a table's name, of more than so many parts (toml.io, Keys). To a part, Python's reader
copies all before it and keeps that: 64 KiB of ``a.a.a`` would take gigabytes.

A part that follows a space or a bracket alone begins a look, so that a long text is not looked
through from everywhere in it.
"""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MetadataError(CoreError):
    """A file's settings cannot be read; one line that names the key and what was expected."""


@attrs.frozen(kw_only=True)
class FileSettings:
    """What a file asks for itself; None, or empty, where it does not say."""

    command: tuple[str, ...] = ()
    """What to start instead of the file's own entry."""
    env: Mapping[str, str] = attrs.field(factory=dict)
    """Variables of its environment, as a table of texts."""
    memory_bytes: int | None = None
    """Memory for all its processes together, such as ``"512M"``."""
    cpu_millis: int | None = None
    """CPUs, such as ``1`` or ``0.5``."""
    gpus: int | None = None
    """Whole GPUs."""
    wall_s: float | None = None
    """The longest that it may run, such as ``"60s"``."""
    policy: str | None = None
    """The pool's policy to run under."""
    scratch_bytes: int | None = None
    """Space for files that it writes, such as ``"1G"``."""
    tmp_bytes: int | None = None
    """What of that is /tmp, such as ``"256M"``."""
    cpu_s: float | None = None
    """The most time of processors, all together, such as ``"10m"``."""
    open_files: int | None = None
    """How many files one process may have open at a time."""
    network: Network | None = None
    """What it can reach: ``"none"``, ``"loopback"`` or ``"full"``; no more than the policy has."""
    seccomp: Seccomp | None = None
    """Which system calls it may make: ``"allow-list"`` or ``"deny-list"``; no more than the policy
    has."""
    reuse: Reuse | None = None
    """Whether it may follow others in a sandbox that is kept: ``"never"``, ``"job"`` or
    ``"account"``; no more than the policy has."""
    least_trust: int | None = None
    """How far its node must be trusted: ``"high"``, ``"normal"``, ``"low"`` or a number to 100."""
    max_ucpt: int | None = None
    """Refuse it rather than hold more CPT than this for it, such as ``20`` or ``"0.5"``."""
    outputs: tuple[str, ...] = ()
    """Files and folders below the working folder that belong to the result, too."""


def read_script(text: str) -> FileSettings:
    """The settings in a script's inline metadata; all unset where it has none.

    Raises:
        MetadataError: there is more than one block, or it cannot be read.
    """
    block = _script_block(text)
    if block is None:
        return FileSettings()
    table = _parse(block, "the script's metadata")
    tool = table.get("tool", {})
    settings = tool.get("hivemind", {}) if isinstance(tool, dict) else {}
    if not isinstance(settings, dict):
        raise MetadataError("tool.hivemind in the script's metadata must be a table")
    return _read(settings, "tool.hivemind in the script's metadata")


def read_file(text: str) -> FileSettings:
    """The settings in an archive's ``hivemind.toml``.

    Raises:
        MetadataError: it cannot be read.
    """
    return _read(_parse(text, FILE_NAME), FILE_NAME)


def _script_block(text: str) -> str | None:
    """The block's TOML without its comment marks; None if there is no complete block.

    As PEP 723 has it, a block that is never closed is no block, and the last closing line within
    one run of comment lines is the one that counts.
    """
    lines = iter(text.splitlines()) if _OPENING in text else iter(())
    found: list[str] | None = None
    for line in lines:
        if line != _OPENING:
            continue
        run: list[str] = []
        for inner in lines:
            if _CONTENT.fullmatch(inner) is None:
                break
            run.append(inner)
        if _CLOSING not in run:
            continue
        if found is not None:
            raise MetadataError("the script has more than one metadata block: keep one of them")
        found = run[: len(run) - 1 - run[::-1].index(_CLOSING)]
    return None if found is None else "\n".join(line[2:] for line in found)


def _parse(text: str, where: str) -> dict[str, object]:
    if len(text) > BLOCK_BYTES:
        raise MetadataError(
            f"{where} has more than {sizes.show_size(BLOCK_BYTES)}: make it shorter"
        )
    if _DEEP_KEY.search(text) is not None:
        raise _too_deep(where)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MetadataError(one_line(f"{where} is not valid TOML: {error}")) from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError:
        # Python bounds how many digits it turns into a number.
        raise MetadataError(f"{where} has a number that is too long: make it shorter") from None


def _too_deep(where: str) -> MetadataError:
    return MetadataError(f"{where} nests too deeply: make it flatter")


Value = TypeVar("Value")
M = TypeVar("M", bound=Mode)


class _Table:
    """A table of settings; each key is taken by what reads it, and none may be left over."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = dict(values)
        self._where = where

    def take(self, key: str, read: Callable[[object], Value], default: Value) -> Value:
        """What ``read`` makes of the key's value; ``default`` where there is none."""
        if key not in self._values:
            return default
        value = self._values.pop(key)
        try:
            return read(value)
        except (_Unexpected, sizes.BadQuantity, BadAmount, BadTrust) as problem:
            raise MetadataError(f"{key} of {self._where}: {problem}") from None

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key in self._values:
            known = ", ".join(sorted(KEYS))
            raise MetadataError(f"{key[:40]!a} of {self._where} is not known; there are: {known}")


KEYS = (
    *("command", "cpu_time", "cpus", "env", "gpus", "max_cpt", "memory", "network", "open_files"),
    *("outputs", "policy", "reuse", "scratch", "seccomp", "time", "tmp", "trust"),
)


class _Unexpected(Exception):
    """What was expected instead of a value."""


def _read(values: Mapping[str, object], where: str) -> FileSettings:
    table = _Table(values, where)
    settings = FileSettings(
        command=table.take("command", _command, ()),
        env=table.take("env", _env, {}),
        memory_bytes=table.take("memory", _size, None),
        cpu_millis=table.take("cpus", _cpus, None),
        gpus=table.take("gpus", _gpus, None),
        wall_s=table.take("time", _time, None),
        policy=table.take("policy", _policy, None),
        outputs=table.take("outputs", _outputs, ()),
        scratch_bytes=table.take("scratch", _size, None),
        tmp_bytes=table.take("tmp", _size, None),
        cpu_s=table.take("cpu_time", _time, None),
        open_files=table.take("open_files", _open_files, None),
        network=table.take("network", _mode(Network), None),
        seccomp=table.take("seccomp", _mode(Seccomp), None),
        reuse=table.take("reuse", _mode(Reuse), None),
        least_trust=table.take("trust", _trust, None),
        max_ucpt=table.take("max_cpt", _cpt, None),
    )
    table.finish()
    return settings


def _command(value: object) -> tuple[str, ...]:
    expected = 'expected a list of strings, or one string, like "python3 main.py"'
    if isinstance(value, str) and "\0" not in value:
        try:
            words = tuple(shlex.split(value))
        except ValueError:
            raise _Unexpected("its quotes do not match") from None
    else:
        words = _strings(value, expected)
    if not words or not words[0]:
        raise _Unexpected(f"it is empty; {expected}")
    return words


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Unexpected('expected a table of strings, like { MODE = "fast" }')
    for name, text in value.items():
        if _ENV_NAME.fullmatch(name) is None:
            raise _Unexpected(f"{name[:40]!a} cannot name a variable: use letters, digits and _")
        if not isinstance(text, str) or "\0" in text:
            raise _Unexpected(f"expected a string for {name[:40]}")
    return dict(value)


def _size(value: object) -> int:
    if isinstance(value, str):
        return sizes.parse_size(value)
    return _whole(value, 'expected a size, like "512M", or a number of bytes')


def _cpus(value: object) -> int:
    return sizes.parse_cpus(_number(value, "expected a number of CPUs, like 1 or 0.5"))


def _gpus(value: object) -> int:
    return _whole(value, "expected a number of GPUs, like 1")


def _open_files(value: object) -> int:
    return _whole(value, "expected a number of files, like 1024", most=_MOST_COUNT)


def _mode(modes: type[M]) -> Callable[[object], M]:
    words = [mode.value for mode in modes]

    def read(value: object) -> M:
        if not isinstance(value, str) or value not in words:
            raise _Unexpected(f"expected one of {', '.join(words)}")
        return modes(value)

    return read


def _time(value: object) -> float:
    return sizes.parse_duration(_number(value, 'expected a duration, like "60s" or "5m"'))


def _trust(value: object) -> int:
    if isinstance(value, str):
        return parse_trust(value)
    return _whole(value, 'expected a level of trust, like "high", or a number to 100', most=101)


def _cpt(value: object) -> int:
    return parse_cpt(_number(value, "expected an amount of CPT, like 20 or 0.5"))


def _policy(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _Unexpected('expected the name of a policy, like "default"')
    return value


def _outputs(value: object) -> tuple[str, ...]:
    paths = _strings(value, 'expected a list of paths, like ["model.bin", "plots"]')
    for path in paths:
        if any(character in path for character in "*?["):
            raise _Unexpected(f"{path[:40]!a} is a pattern; name the folder that they lie in")
    try:
        cleaned = tuple(dict.fromkeys(clean_output(path) for path in paths))
        check_outputs(cleaned)
    except BadOutput as error:
        raise _Unexpected(str(error)) from None
    return cleaned


def _strings(value: object, expected: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(item, str) and "\0" not in item for item in value
    ):
        raise _Unexpected(expected)
    return tuple(value)


def _whole(value: object, expected: str, *, most: int = 1 << 62) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < most:
        raise _Unexpected(expected)
    return value


def _number(value: object, expected: str) -> str:
    """A string, or a number of TOML as one, to be read as flags are."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unexpected(expected)
    return f"{value:f}" if isinstance(value, float) else str(value)
