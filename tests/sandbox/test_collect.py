"""Taking home what a task left, whatever it left."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import tarfile
from pathlib import Path

import pytest
import trio

import sandbox
from sandbox.spawner.collect import collect_and_exit
from tests.sandbox.conftest import limits, python, shell


async def _collect(
    pool: sandbox.Pool, spec: sandbox.Spec, max_bytes: int = 1 << 30, max_files: int = 10_000
) -> tuple[sandbox.Collected, dict[str, tuple[str, bytes]]]:
    target = io.BytesIO()
    async with pool.open_run(spec) as run:
        result = await run.wait()
        assert result.exit_code == 0, [chunk.data async for chunk in run.chunks()]
        collected = await run.collect(target, max_bytes=max_bytes, max_files=max_files)
    target.seek(0)
    found: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(fileobj=target, mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            kind = "folder" if member.isdir() else "file" if member.isreg() else "other"
            found[member.name] = (kind, file.read() if file else b"")
    return collected, found


async def test_files_and_folders_come_home(any_pool: sandbox.Pool) -> None:
    script = "cd output; mkdir -p a/b c; echo one >a/b/f; printf '' >empty; echo two >'Ünï cödé'"
    collected, found = await _collect(any_pool, shell(script))
    assert found == {
        "a": ("folder", b""),
        "a/b": ("folder", b""),
        "a/b/f": ("file", b"one\n"),
        "c": ("folder", b""),
        "empty": ("file", b""),
        "Ünï cödé": ("file", b"two\n"),
    }
    assert (collected.files, collected.bytes, collected.skipped) == (3, 8, ())


async def test_only_the_output_folder_is_collected(any_pool: sandbox.Pool) -> None:
    spec = shell("echo x >mine; echo y >out/there/y", output_dir="out/there")
    _, found = await _collect(any_pool, spec)
    assert found == {"y": ("file", b"y\n")}


async def test_outputs_are_collected_under_their_own_paths_after_the_folder(
    any_pool: sandbox.Pool,
) -> None:
    spec = shell(
        "mkdir -p model/deep plots; echo 1 >model/deep/w; echo 2 >plots/a; echo 3 >plots/b;"
        "echo 4 >output/own; echo 5 >other",
        outputs=("model", "plots/a", "model/deep", "never made"),
    )
    collected, found = await _collect(any_pool, spec)
    assert found == {
        "own": ("file", b"4\n"),
        "model": ("folder", b""),
        "model/deep": ("folder", b""),
        "model/deep/w": ("file", b"1\n"),
        "plots/a": ("file", b"2\n"),
    }
    assert (collected.files, collected.bytes, collected.skipped) == (3, 6, ("never made",))


async def test_where_names_meet_the_output_folders_own_counts(any_pool: sandbox.Pool) -> None:
    spec = shell(
        "mkdir -p both file folder; echo theirs >both/same; echo theirs >both/more;"
        "echo x >file/below; echo x >alone; rmdir folder; echo x >folder;"
        "mkdir -p output/both output/folder; echo own >output/both/same; echo own >output/alone;"
        "echo own >output/file",
        outputs=("both", "alone", "file/below", "folder"),
    )
    collected, found = await _collect(any_pool, spec)
    files = {name: data for name, (kind, data) in found.items() if kind == "file"}
    assert files == {
        "both/same": b"own\n",
        "both/more": b"theirs\n",
        "alone": b"own\n",
        "file": b"own\n",
    }
    assert collected.skipped == ("both/same", "alone", "file/below", "folder")


async def test_outputs_follow_no_link_and_keep_to_the_limits(any_pool: sandbox.Pool) -> None:
    script = (
        "ln -s /etc/passwd link; ln -s /usr usr; mkfifo pipe; mkdir d; ln -s / d/root;"
        "ln -s d e; echo x >d/f; echo x >big"
    )
    outputs = ("link", "usr", "usr/bin", "pipe", "d", "e/f")
    collected, found = await _collect(any_pool, shell(script, outputs=outputs))
    assert found == {"d": ("folder", b""), "d/f": ("file", b"x\n")}
    assert set(collected.skipped) == {"link", "usr", "pipe", "d/root", "e/f"}
    with pytest.raises(sandbox.CollectFailed, match="larger than 3 bytes"):
        await _collect(any_pool, shell("echo x >a; echo x >b", outputs=("a", "b")), max_bytes=3)


@pytest.mark.parametrize(
    "outputs", [("/etc",), ("../x",), ("a//b",), ("",), ("a\n",), ("x",) * 65, ("x" * 5000,)]
)
def test_outputs_that_lead_elsewhere_or_are_too_many_are_refused(outputs: tuple[str, ...]) -> None:
    with pytest.raises(sandbox.BadSpec, match="output"):
        shell("true", outputs=outputs)


async def test_what_is_no_file_is_left_out_and_named(any_pool: sandbox.Pool) -> None:
    source = r"""
import os, socket
os.chdir("/task/output")
os.symlink("/etc/passwd", "absolute")
os.symlink("../../usr", "folder-link")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
open(b"not-\xff-utf8", "w").close()
open("new\nline", "w").close()
open("line\u2028separator", "w").close()
open("terminal\x9bcommand", "w").close()
open("kept", "w").write("kept")
os.link("kept", "twin")
"""
    collected, found = await _collect(any_pool, python(source))
    assert found == {"kept": ("file", b"kept"), "twin": ("file", b"kept")}
    assert set(collected.skipped) == {
        "absolute",
        "folder-link",
        "pipe",
        "socket",
        "not-\\udcff-utf8",
        "new\\nline",
        "line\\u2028separator",
        "terminal\\x9bcommand",
    }


async def test_an_output_folder_that_became_a_link_is_not_followed(any_pool: sandbox.Pool) -> None:
    collected, found = await _collect(any_pool, shell("rmdir output; ln -s /usr output"))
    assert (collected.files, collected.skipped, found) == (0, ("output",), {})


async def test_closed_modes_do_not_hide_what_was_made(any_pool: sandbox.Pool) -> None:
    script = "mkdir output/d; echo x >output/d/f; chmod 0 output/d/f output/d output"
    _, found = await _collect(any_pool, shell(script))
    assert found["d/f"] == ("file", b"x\n")


async def test_a_sparse_file_counts_whole(any_pool: sandbox.Pool) -> None:
    spec = shell("truncate -s 10M output/sparse", limits=limits())
    collected, found = await _collect(any_pool, spec, max_bytes=10 << 20)
    assert (collected.bytes, found["sparse"][1]) == (10 << 20, bytes(10 << 20))
    with pytest.raises(sandbox.CollectFailed, match="larger than 10485759 bytes"):
        await _collect(any_pool, spec, max_bytes=(10 << 20) - 1)


async def test_a_terabyte_that_occupies_nothing_is_refused_before_a_byte_is_written(
    any_pool: sandbox.Pool,
) -> None:
    spec = shell(
        "echo x >output/a; truncate -s 1T output/b; ls -s output/b",
        limits=limits(file_bytes=2 << 40),
    )
    target = io.BytesIO()
    async with any_pool.open_run(spec) as run:
        with trio.fail_after(30), pytest.raises(sandbox.CollectFailed, match="larger than 1073"):
            await run.collect(target, max_bytes=1 << 30, max_files=10)
        assert [chunk.data async for chunk in run.chunks()] == [b"0 output/b\n"]
    assert len(target.getvalue()) < 4096


async def test_each_name_of_a_file_counts(any_pool: sandbox.Pool) -> None:
    source = """
import os
with open("/task/output/file", "wb") as file:
    file.truncate(1 << 20)
for number in range(50):
    os.link("/task/output/file", f"/task/output/{number}")
"""
    with pytest.raises(sandbox.CollectFailed, match="larger than 10485760 bytes"):
        await _collect(any_pool, python(source), max_bytes=10 << 20)
    collected, _ = await _collect(any_pool, python(source), max_bytes=51 << 20)
    assert collected.files == 51


async def test_many_names_that_are_no_files_count_too(any_pool: sandbox.Pool) -> None:
    source = """
import os
for number in range(3000):
    os.symlink("x", f"/task/output/{number}")
"""
    with pytest.raises(sandbox.CollectFailed, match="more than 10 files"):
        await _collect(any_pool, python(source), max_files=10)


async def test_nothing_runs_any_more_when_collecting_begins(any_pool: sandbox.Pool) -> None:
    source = """
import os, sys
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        while True:
            for name in ("a", "b"):
                open(f"/task/output/{name}", "ab").write(b"x" * 1000)
                try:
                    os.symlink("/etc", "/task/output/new")
                    os.rename("/task/output/new", "/task/output/a")
                    os.unlink("/task/output/a")
                except OSError:
                    pass
"""
    for _ in range(5):
        collected, found = await _collect(any_pool, python(source))
        assert set(found) <= {"a", "b"}
        assert set(collected.skipped) <= {"a", "new"}
        assert collected.bytes == sum(len(data) for _, data in found.values())


def test_a_file_that_shrinks_while_it_is_read_is_reported(tmp_path: Path) -> None:
    """With the machine's own network a task can hand a file to an accomplice elsewhere."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output/file").write_bytes(bytes(8 << 20))
    reader, writer = os.pipe()
    report, report_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        collect_and_exit(str(tmp_path), "output", [], writer, report_writer, 1 << 30, 10)
    os.close(writer)
    os.close(report_writer)
    os.read(reader, 1024)  # the header is written, and the pipe is full
    os.truncate(tmp_path / "output/file", 10)
    with os.fdopen(reader, "rb") as rest:
        rest.read()
    os.waitpid(pid, 0)
    with os.fdopen(report, "rb") as told:
        assert b"became shorter while it was read" in told.read()


def test_our_own_lack_of_descriptors_loses_nothing_silently(tmp_path: Path) -> None:
    (tmp_path / "output" / "/".join("d" * 120)).mkdir(parents=True)
    writer = os.open("/dev/null", os.O_WRONLY)
    report, report_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(report)
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        collect_and_exit(str(tmp_path), "output", [], writer, report_writer, 1 << 30, 999)
    os.close(report_writer)
    with os.fdopen(report, "rb") as told:
        assert b"Too many open files" in told.read()
    os.waitpid(pid, 0)
    os.close(writer)


async def test_too_many_files_are_refused(any_pool: sandbox.Pool) -> None:
    spec = shell("cd output; for i in 1 2 3 4 5; do : >$i; done")
    assert (await _collect(any_pool, spec, max_files=5))[0].files == 5
    with pytest.raises(sandbox.CollectFailed, match="too many files"):
        await _collect(any_pool, spec, max_files=4)


async def test_a_tree_of_any_depth_is_walked_to_its_limit_and_goes_away(
    any_pool: sandbox.Pool,
) -> None:
    source = """
import os
os.chdir("/task/output")
for _ in range(2500):
    os.mkdir("d")
    os.chdir("d")
"""
    collected, found = await _collect(any_pool, python(source))
    assert max(name.count("/") for name in found) == 126
    assert len(collected.skipped) == 1
    assert (await sandbox.run_in(any_pool, shell("ls output"))).stdout == b""


async def test_long_names_survive(any_pool: sandbox.Pool) -> None:
    name = "/".join(["n" * 200] * 4)
    _, found = await _collect(any_pool, shell(f"mkdir -p output/{name}; echo x >output/{name}/f"))
    assert found[f"{name}/f"] == ("file", b"x\n")


async def test_ninety_megabytes_come_home_byte_for_byte_in_little_memory(
    pool: sandbox.Pool, tmp_path: Path
) -> None:
    source = """
import hashlib, random
data = random.Random(1).randbytes(1 << 20)
digest = hashlib.sha256()
with open("/task/output/big", "wb") as file:
    for number in range(90):
        block = bytes([number]) + data[1:]
        file.write(block)
        digest.update(block)
print(digest.hexdigest())
"""
    spec = python(source, limits=limits(scratch_bytes=100 << 20))
    target = tmp_path / "result.tar"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with pool.open_run(spec) as run:
        printed = b"".join([chunk.data async for chunk in run.chunks()])
        with target.open("wb") as file:
            collected = await run.collect(file, max_bytes=100 << 20, max_files=10)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert collected.bytes == 90 << 20
    assert grown_kib < 32 << 10
    with tarfile.open(target) as archive:
        member = archive.extractfile("big")
        assert member is not None
        assert hashlib.file_digest(member, "sha256").hexdigest() == printed.decode().strip()
    target.unlink()


async def test_a_destination_without_space_is_reported(pool: sandbox.Pool) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with pool.open_run(shell("echo x >output/x")) as run:
            with pytest.raises(sandbox.CollectFailed, match="No space left"):
                await run.collect(full, max_bytes=100, max_files=10)
    finally:
        os.close(full)
