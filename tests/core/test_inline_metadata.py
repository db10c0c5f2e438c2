import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.inline_metadata import (
    BLOCK_BYTES,
    FileSettings,
    MetadataError,
    read_file,
    read_script,
)

WHOLE = """\
command = ["python3", "-m", "tool"]
env = { MODE = "fast", N = "3" }
memory = "1.5G"
cpus = 0.5
gpus = 1
time = "5m"
policy = "gpu"
outputs = ["results/", "./log.txt"]
scratch = "2G"
tmp = "256M"
cpu_time = "10m"
open_files = 2048
network = "none"
seccomp = "allow-list"
reuse = "job"
trust = "normal"
max_cpt = 2.5
"""
SETTINGS = FileSettings(
    command=("python3", "-m", "tool"),
    env={"MODE": "fast", "N": "3"},
    memory_bytes=3 << 29,
    cpu_millis=500,
    gpus=1,
    wall_s=300.0,
    policy="gpu",
    outputs=("results", "log.txt"),
    scratch_bytes=2 << 30,
    tmp_bytes=256 << 20,
    cpu_s=600.0,
    open_files=2048,
    network=Network.NONE,
    seccomp=Seccomp.ALLOW_LIST,
    reuse=Reuse.JOB,
    least_trust=40,
    max_ucpt=2_500_000,
)


def script(*toml: str, opening: str = "# /// script", closing: str = "# ///") -> str:
    """A script with a metadata block in its middle."""
    block = [f"# {line}".rstrip() for line in toml]
    return "\n".join(["#!/usr/bin/env python3", opening, *block, closing, "print(1)", ""])


def test_an_archives_file_is_read_whole() -> None:
    assert read_file(WHOLE) == SETTINGS


def test_a_scripts_block_says_the_same_below_tool_hivemind() -> None:
    lines = ['requires-python = ">=3.11"', "", "[tool.hivemind]", *WHOLE.splitlines()]
    assert read_script(script(*lines)) == SETTINGS


@pytest.mark.parametrize("text", ["", "print(1)", script(), script("dependencies = []")])
def test_what_is_not_said_is_unset(text: str) -> None:
    assert read_script(text) == FileSettings()
    assert read_file("") == FileSettings()


@pytest.mark.parametrize(
    "text",
    [
        script("[tool.hivemind]", "gpus = 9", opening="# /// other"),
        script("[tool.hivemind]", "gpus = 9", opening="#/// script"),
        script("[tool.hivemind]", "gpus = 9", opening=" # /// script"),
        script("[tool.hivemind]", "gpus = 9", closing=""),
        "# /// script\n# [tool.hivemind]\n#gpus = 9\n# ///\n",
    ],
    ids=["another type", "no space", "indented", "never closed", "no comment mark"],
)
def test_what_is_not_a_whole_script_block_is_a_comment(text: str) -> None:
    assert read_script(text) == FileSettings()


def test_the_last_closing_line_of_a_run_of_comments_closes_the_block() -> None:
    text = "# /// script\n# [tool.hivemind]\n# gpus = 1\n# ///\n# # more\n# ///\n"
    with pytest.raises(MetadataError, match="not valid TOML"):
        read_script(text)
    assert read_script(text.replace("# # more\n# ///\n", "# more\n")).gpus == 1


def test_windows_line_ends_are_line_ends() -> None:
    assert read_script(script("[tool.hivemind]", "gpus = 1").replace("\n", "\r\n")).gpus == 1


def test_two_blocks_are_refused() -> None:
    with pytest.raises(MetadataError, match="more than one metadata block"):
        read_script(script("a = 1") + script("b = 2"))


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("memory = 1073741824", None),
        ('cpus = "0.5"', None),
        ("time = 90", None),
        ("time = 1.5", None),
        ("command = \"sh -c 'echo hi'\"", None),
        ("memory = 1.5", r'memory of hivemind.toml: expected a size, like "512M"'),
        ("memory = -1", "memory of hivemind.toml: expected a size"),
        ('memory = "lots"', "memory of hivemind.toml: 'lots' is not a size"),
        ("memory = true", "memory of hivemind.toml: expected a size"),
        ("cpus = true", "cpus of hivemind.toml: expected a number of CPUs"),
        ("cpus = -1", "cpus of hivemind.toml: '-1' is not a number of CPUs"),
        ("cpus = nan", "cpus of hivemind.toml: 'nan' is not"),
        ("gpus = 1.5", "gpus of hivemind.toml: expected a number of GPUs"),
        ("gpus = -1", "gpus of hivemind.toml: expected a number of GPUs"),
        ('scratch = "x"', "scratch of hivemind.toml: 'x' is not a size"),
        ("tmp = 1.5", "tmp of hivemind.toml: expected a size"),
        ("cpu_time = true", "cpu_time of hivemind.toml: expected a duration"),
        ('open_files = "9"', "open_files of hivemind.toml: expected a number of files, like 1024"),
        ("open_files = 4294967296", "open_files of hivemind.toml: expected a number of files"),
        ('network = "all"', "network of hivemind.toml: expected one of none, loopback, full"),
        ('network = ["none"]', "network of hivemind.toml: expected one of none, loopback, full"),
        ("trust = 'great'", "trust of hivemind.toml: 'great' is not a level of trust: write high"),
        ("trust = 101", "trust of hivemind.toml: expected a level of trust, like"),
        ("trust = true", "trust of hivemind.toml: expected a level of trust, like"),
        ("max_cpt = -1", "max_cpt of hivemind.toml: '-1' is not an amount of CPT"),
        ("max_cpt = []", "max_cpt of hivemind.toml: expected an amount of CPT, like 20 or 0.5"),
        ("reuse = false", "reuse of hivemind.toml: expected one of never, job, account"),
        ("time = []", 'time of hivemind.toml: expected a duration, like "60s"'),
        ("time = inf", "time of hivemind.toml: 'inf' is not a duration"),
        ("policy = 3", "policy of hivemind.toml: expected the name"),
        ('policy = ""', "policy of hivemind.toml: expected the name"),
        ("command = 3", "command of hivemind.toml: expected a list of strings"),
        ("command = [3]", "command of hivemind.toml: expected a list of strings"),
        ("command = []", "command of hivemind.toml: it is empty"),
        ('command = "  "', "command of hivemind.toml: it is empty"),
        ('command = "sh \'x"', "command of hivemind.toml: its quotes do not match"),
        ('command = ["a\\u0000b"]', "command of hivemind.toml: expected"),
        ('command = "a\\u0000b"', "command of hivemind.toml: expected"),
        ("env = []", "env of hivemind.toml: expected a table of strings"),
        ("env = { A = 1 }", "env of hivemind.toml: expected a string for A"),
        ('env = { "A B" = "" }', "env of hivemind.toml: 'A B' cannot name a variable"),
        ('env = { A = "\\u0000" }', "env of hivemind.toml: expected a string for A"),
        ('outputs = "x"', "outputs of hivemind.toml: expected a list of paths"),
        ('outputs = ["/etc"]', "outputs of hivemind.toml: output '/etc' leads elsewhere"),
        ('outputs = ["a/../../b"]', "outputs of hivemind.toml: output 'a/../../b' leads elsewhere"),
        ('outputs = [""]', "outputs of hivemind.toml: output '' names nothing"),
        ('outputs = ["*.png"]', "outputs of hivemind.toml: '..png' is a pattern"),
        (
            'outputs = ["output/a"]',
            "outputs of hivemind.toml: output 'output/a' lies in the output",
        ),
        (
            'timeout = "60s"',
            "'timeout' of hivemind.toml is not known; there are: command, cpu_time, cpus",
        ),
        ("[tool.hivemind]\ngpus = 1", "'tool' of hivemind.toml is not known"),
        ("memory = ", "hivemind.toml is not valid TOML: "),
        ("x = " + "[" * 5000, "hivemind.toml nests too deeply"),
        (f"{'.'.join('a' * 33)} = 1", "hivemind.toml nests too deeply"),
        (f"[{' . '.join('a' * 33)}]", "hivemind.toml nests too deeply"),
        (f"x = 1\ny = {{z=1,{'.'.join('a' * 33)}=1}}", "hivemind.toml nests too deeply"),
        ('"a\\"b" . \'c\' . ' * 17 + "d = 1", "hivemind.toml nests too deeply"),
        (f"{'.'.join('a' * 32)} = 1", "'a' of hivemind.toml is not known"),
        (f'env = {{ A = "{"a b. " * 99}" }}', None),
        ("gpus = " + "9" * 5000, "hivemind.toml has a number that is too long"),
        ("# " + "x" * 70_000, "hivemind.toml has more than 64K"),
    ],
)
def test_a_key_is_read_or_refused_in_one_line_that_names_it_and_what_was_expected(
    toml: str, complaint: str | None
) -> None:
    if complaint is None:
        assert read_file(toml) != FileSettings()
        return
    with pytest.raises(MetadataError, match=complaint) as caught:
        read_file(toml)
    assert str(caught.value).isprintable()


def test_a_scripts_complaints_name_the_script() -> None:
    with pytest.raises(MetadataError, match=r"gpus of tool\.hivemind in the script's metadata"):
        read_script(script("[tool.hivemind]", "gpus = 'x'"))
    with pytest.raises(MetadataError, match="the script's metadata is not valid TOML"):
        read_script(script("[tool.hivemind"))
    with pytest.raises(MetadataError, match="must be a table"):
        read_script(script("[tool]", "hivemind = 3"))


def test_a_string_command_is_split_as_a_shell_would() -> None:
    assert read_file("command = \"sh -c 'echo hi'\"").command == ("sh", "-c", "echo hi")


def refusal_of(read: Callable[[str], FileSettings], text: str) -> str:
    """What is said against the text; empty if it is read."""
    try:
        read(text)
    except MetadataError as refusal:
        return str(refusal)
    return ""


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_in_one_printable_line(text: str) -> None:
    assert refusal_of(read_file, text).isprintable()
    assert refusal_of(read_script, text).isprintable()


@given(st.text(alphabet="#/ script\n=[]\"'", max_size=200))
def test_any_text_that_looks_like_a_block_is_read_or_refused(text: str) -> None:
    assert refusal_of(read_script, "# /// script\n" + text).isprintable()


HOSTILE = (
    *(form.format(".".join("a" * 10_000)) for form in ("{} = 1", "[{}]", "x = {{y=1,{}=1}}")),
    "'a' . " * 10_000,
    '"' + '\\"' * 30_000,
    ' "\\' * 20_000,
    ("a. " * 31 + "\n") * 650,
    "a" * 65_000,
    f"[{'.'.join('a' * 30)}]\n" + "".join(f"k{number} = 1\n" for number in range(5000)),
    f"x = {'[' * 65_000}",
    f"x = {'[{a=' * 16_000}",
)


def test_whatever_a_stranger_writes_is_judged_at_once_and_takes_little_room() -> None:
    for toml in HOSTILE:
        assert len(toml) <= BLOCK_BYTES
        tracemalloc.start()
        try:
            began = time.thread_time()
            with pytest.raises(MetadataError):
                read_file(toml)
            took_s = time.thread_time() - began
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert took_s < 2, toml[:40]
        assert peak_bytes < 32 * 1024 * 1024, toml[:40]
