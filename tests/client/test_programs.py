"""What is handed in is judged here, so that nothing hopeless is sent."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind.client import programs
from hivemind.client.errors import BadProgram
from hivemind.client.programs import Program, program_from_command, program_from_path
from hivemind.core.admission import Ask
from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.records import PayloadKind
from tests.client.test_archives import make_tar, make_zip

METADATA = """\
# /// script
# dependencies = []
# [tool.hivemind]
# memory = "64M"
# time = "5s"
# env = { MODE = "file", OTHER = "kept" }
# ///
print("hi")
"""


def _from_path(path: Path, **changes: Any) -> Program:
    return program_from_path(path, **{"ask": Ask(), "env": {}, **changes})


def _payload(program: Program) -> bytes:
    assert program.payload is not None
    data = b"".join(program.payload.read())
    assert len(data) == program.payload.size
    return data


def test_a_python_file_is_a_script_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text("print('é')")
    program = _from_path(path, args=["a", "b"], name="n")
    submission = program.submission
    assert (submission.kind, submission.filename) == (PayloadKind.SCRIPT, "hello.py")
    assert (submission.argv, submission.name) == (("a", "b"), "n")
    assert _payload(program) == path.read_bytes()


def test_an_executable_script_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#!/bin/sh\necho \xff\n")
    assert _from_path(path).submission.kind is PayloadKind.SCRIPT


def test_archives_are_known_by_their_content(tmp_path: Path) -> None:
    for path in (
        make_zip(tmp_path / "a", {"main.py": b""}),
        make_tar(tmp_path / "b", {"main.py": b""}, "w:gz"),
    ):
        program = _from_path(path, args=["x"])
        assert program.submission.kind is PayloadKind.ARCHIVE
        assert program.submission.argv == ("x",)
        assert _payload(program) == path.read_bytes()


def test_a_folder_is_sent_as_a_tar_of_it(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import mod")
    (tmp_path / "mod.py").write_text("")
    program = _from_path(tmp_path)
    assert program.submission.kind is PayloadKind.ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(_payload(program))) as archive:
        assert archive.getnames() == ["main.py", "mod.py"]


def test_a_command_brings_no_bytes() -> None:
    program = program_from_command(["wc", "-c"], ask=Ask(gpus=1), env={"A": "1"}, name="n")
    assert program.payload is None
    submission = program.submission
    assert (submission.kind, submission.argv) == (PayloadKind.COMMAND, ("wc", "-c"))
    assert (submission.ask.gpus, submission.env, submission.name) == (1, {"A": "1"}, "n")


def test_a_scripts_own_metadata_holds_where_flags_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(METADATA)
    submission = _from_path(path, ask=Ask(wall_s=9.0, retries=2), env={"MODE": "flag"}).submission
    assert submission.ask == Ask(memory_bytes=64 << 20, wall_s=9.0, retries=2)
    assert submission.env == {"MODE": "flag", "OTHER": "kept"}


def test_all_that_a_file_may_say_of_its_sandbox_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "hivemind.toml").write_text(
        'scratch = "1G"\ntmp = "1M"\ncpu_time = "1m"\nopen_files = 99\nnetwork = "none"\n'
        'seccomp = "allow-list"\nreuse = "never"\npolicy = "lab"\n'
        "cpus = 2\nmemory = 1\ngpus = 1\ntime = 5\n"
    )
    assert _from_path(tmp_path, ask=Ask(tmp_bytes=7)).submission.ask == Ask(
        scratch_bytes=1 << 30,
        tmp_bytes=7,
        cpu_s=60.0,
        open_files=99,
        network=Network.NONE,
        seccomp=Seccomp.ALLOW_LIST,
        reuse=Reuse.NEVER,
        policy="lab",
        cpu_millis=2000,
        memory_bytes=1,
        gpus=1,
        wall_s=5.0,
    )


def test_a_zero_in_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "hivemind.toml").write_text("gpus = 2\n")
    assert _from_path(tmp_path, ask=Ask(gpus=0)).submission.ask.gpus == 0
    assert _from_path(tmp_path).submission.ask.gpus == 2


def test_the_manifest_of_a_folder_and_of_an_archive_are_read_alike(tmp_path: Path) -> None:
    text = 'command = ["python3", "go.py"]\nmemory = "1G"\n[env]\nA = "b"\n'
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "go.py").touch()
    (folder / "other.py").touch()
    (folder / "hivemind.toml").write_text(text)
    packed = {"go.py": b"", "other.py": b"", "hivemind.toml": text.encode()}
    for path in (
        folder,
        make_zip(tmp_path / "p.zip", packed),
        make_tar(tmp_path / "p.tar", packed),
    ):
        submission = _from_path(path).submission
        assert submission.command == ("python3", "go.py")
        assert (submission.ask.memory_bytes, submission.env) == (1 << 30, {"A": "b"})


def _unreadable(path: Path) -> Path:
    target = path / "loop"
    target.symlink_to("loop")
    return target


def test_the_outputs_that_a_file_names_are_asked_for(tmp_path: Path) -> None:
    script = _file(tmp_path, b"# /// script\n# tool.hivemind.outputs = ['model']\n# ///\n")
    archive = make_zip(
        tmp_path / "a.zip", {"main.py": b"", "hivemind.toml": b"outputs = ['model/', 'model']"}
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "main.py").touch()
    (folder / "hivemind.toml").write_text("outputs = ['model']")
    for path in (script, archive, folder):
        assert _from_path(path).submission.outputs == ("model",)


BAD: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: path / "nothing.py", "there is no such file"),
    "loop of links": (_unreadable, "there is no such file"),
    "device": (lambda _: Path("/dev/null"), "neither a file nor a folder"),
    "empty file": (lambda path: _file(path, b""), "empty"),
    "binary": (lambda path: _file(path, b"\x7fELF\x00\x01"), "neither"),
    "not UTF-8": (lambda path: _file(path, b"x = 1 \n" * 20_000 + b"\xff"), "neither UTF-8"),
    "zip in name only": (lambda path: _file(path, b"hello", "a.zip"), "named like one"),
    "empty zip": (lambda path: make_zip(path / "e.zip", {}), "archive is empty"),
    "empty tar": (lambda path: make_tar(path / "e.tar", {}), "archive is empty"),
    "no entry": (lambda path: make_zip(path / "n.zip", {"readme.txt": b""}), "no entry"),
    "two scripts": (lambda path: make_zip(path / "n.zip", {"a.py": b"", "b.py": b""}), "entry"),
    "bad manifest": (
        lambda path: make_zip(path / "n.zip", {"main.py": b"", "hivemind.toml": b"memry = 1"}),
        "memry",
    ),
    "bad memory": (
        lambda path: make_zip(path / "n.zip", {"main.py": b"", "hivemind.toml": b"memory='x'"}),
        "memory",
    ),
    "manifest not UTF-8": (
        lambda path: make_zip(path / "n.zip", {"main.py": b"", "hivemind.toml": b"\xff"}),
        "not UTF-8",
    ),
    "outputs elsewhere": (
        lambda path: make_zip(path / "n.zip", {"main.py": b"", "hivemind.toml": b"outputs=['/x']"}),
        "leads elsewhere",
    ),
    "command in a script": (
        lambda path: _file(path, b"# /// script\n# tool.hivemind.command = 'x'\n# ///\n"),
        "command",
    ),
}


def _file(folder: Path, data: bytes, name: str = "a.py") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_run_is_told_in_one_line_that_names_it(tmp_path: Path, what: str) -> None:
    make, words = BAD[what]
    path = make(tmp_path)
    with pytest.raises(BadProgram, match=words) as caught:
        _from_path(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = _file(tmp_path, b"print(1)")
    path.chmod(0)
    told = _as_ordinary_user(path, lambda: _from_path(path))
    assert told == f"{path}: cannot be read: Permission denied"


def _as_ordinary_user(path: Path, attempt: Callable[[], object]) -> str:
    """What BadProgram says where root, who may read everything, is not asked."""
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            attempt()
        except BadProgram as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        text = told.read().decode()
    os.waitpid(child, 0)
    return text


def test_a_long_script_is_sent_as_it_is_read_and_its_beginning_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last character that is looked at is cut in two.
    data = METADATA.encode() + b"#" + "\N{EURO SIGN}".encode() * 10_000
    monkeypatch.setattr(programs, "_READ_BYTES", len(METADATA.encode()) + 2)
    program = _from_path(_file(tmp_path, data))
    assert program.submission.ask.memory_bytes == 64 * 1024 * 1024
    assert program.payload is not None
    assert b"".join(program.payload.read()) == data


def test_an_empty_command_is_refused() -> None:
    for argv in ([], [""]):
        with pytest.raises(BadProgram, match="no command"):
            program_from_command(argv, ask=Ask(), env={})


def test_an_empty_path_is_not_the_working_folder() -> None:
    with pytest.raises(BadProgram, match="the path of what to run is empty"):
        program_from_path("", ask=Ask(), env={})


@pytest.mark.parametrize("text", ["\udcff", "a\0b"])
def test_what_cannot_travel_as_text_is_refused(text: str) -> None:
    with pytest.raises(BadProgram):
        program_from_command(["echo", text], ask=Ask(), env={})
    with pytest.raises(BadProgram):
        program_from_command(["echo"], ask=Ask(), env={"A": text})
