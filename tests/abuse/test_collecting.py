"""Taking home what a task left, whatever it left. A secret that came home would be seen."""

from __future__ import annotations

import io

import pytest
import trio

import sandbox
from tests.abuse.arena import Arena, case, limits


@case(34)
async def test_a_link_to_a_file_of_the_host_is_not_followed(arena: Arena) -> None:
    collected, found = await arena.leave(
        arena.shell_spec(
            "cd output; ln -s $CANARY_FILE a; ln -s /etc/passwd b; ln -s kept c; : >kept"
        )
    )
    assert found == {"kept": b""}
    assert set(collected.skipped) == {"a", "b", "c"}


@case(35)
async def test_a_link_to_a_folder_is_not_followed_nor_is_one_in_the_output_folders_place(
    arena: Arena,
) -> None:
    spec = arena.shell_spec(
        "cd output; ln -s $(dirname $CANARY_FILE) up; ln -s / top; ln -s /usr usr; mkdir d;"
        "ln -s .. d/back",
        outputs=("output/up/secret", "output/usr/bin"),
    )
    collected, found = await arena.leave(spec)
    assert {name for name, data in found.items() if data is not None} == set()
    assert {"up", "top", "usr", "d/back"} <= set(collected.skipped)
    swapped = await arena.leave(arena.shell_spec("rmdir output; ln -s /usr output"))
    assert (swapped[0].files, swapped[1]) == (0, {})


@case(36)
async def test_a_pipe_or_socket_does_not_hold_the_collector(arena: Arena) -> None:
    with trio.fail_after(20):
        collected, found = await arena.leave(
            arena.python_spec("""
os.chdir("output")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
""")
        )
    assert found == {}
    assert set(collected.skipped) == {"pipe", "socket"}


@case(37)
async def test_a_folder_in_a_files_place_comes_home_as_a_folder(arena: Arena) -> None:
    spec = arena.shell_spec("mkdir -p output/result.txt; mkdir wanted", outputs=("wanted",))
    _, found = await arena.leave(spec)
    assert found == {"result.txt": None, "wanted": None}


@case(38)
async def test_no_step_upwards_is_taken(arena: Arena) -> None:
    for path in ("..", "../x", "a/../../x", "/etc", "a/..", "./a"):
        with pytest.raises(sandbox.BadSpec):
            arena.shell_spec("true", outputs=(path,))
        with pytest.raises(sandbox.BadSpec):
            arena.shell_spec("true", output_dir=path)
    script = "cd output; ln -s .. up; ln -s ../../etc etc; mkdir ... '.. '; echo x >'.. /..f'"
    collected, found = await arena.leave(arena.shell_spec(script))
    assert found == {"...": None, ".. ": None, ".. /..f": b"x\n"}
    assert set(collected.skipped) == {"up", "etc"}


@case(39)
async def test_a_pair_of_hard_links_is_the_tasks_own_and_each_counts(arena: Arena) -> None:
    script = (
        "cd output; printf 12345 >a; ln a b; ln /etc/passwd c 2>/dev/null;"
        "ln /usr/bin/env d 2>/dev/null; true"
    )
    collected, found = await arena.leave(arena.shell_spec(script), max_bytes=10)
    assert found == {"a": b"12345", "b": b"12345"}
    assert collected.bytes == 10
    with pytest.raises(sandbox.CollectFailed, match="larger than 9 bytes"):
        await arena.leave(arena.shell_spec(script), max_bytes=9)


@case(40)
async def test_a_sparse_file_counts_as_long_as_it_is(arena: Arena) -> None:
    spec = arena.shell_spec("truncate -s 900M output/sparse")
    with pytest.raises(sandbox.CollectFailed, match="larger than"):
        await arena.leave(spec, max_bytes=100 << 20)


@case(41)
async def test_an_honest_file_comes_home_byte_for_byte(arena: Arena) -> None:
    spec = arena.python_spec("""
with open("output/honest", "wb") as file:
    file.write(bytes(range(256)) * 4000)
""")
    collected, found = await arena.leave(spec)
    assert found == {"honest": bytes(range(256)) * 4000}
    assert (collected.files, collected.bytes, collected.skipped) == (1, 1_024_000, ())


@case(42)
async def test_a_tree_2500_folders_deep_stops_nobody(arena: Arena) -> None:
    source = """
os.chdir("output")
for _ in range(2500):
    os.mkdir("d")
    os.chdir("d")
"""
    collected, found = await arena.leave(arena.python_spec(source))
    assert max(name.count("/") for name in found) < 130
    assert len(collected.skipped) == 1
    bounded = await arena.python(source, limits=limits(scratch_inodes=1000))
    assert b"No space left" in bounded.stderr


@case(50)
async def test_closed_modes_neither_hide_a_file_nor_stop_the_collector(arena: Arena) -> None:
    script = "mkdir output/d; echo x >output/d/f; chmod 0 output/d/f output/d output; chmod 0 ."
    _, found = await arena.leave(arena.shell_spec(script))
    assert found == {"d": None, "d/f": b"x\n"}


@case(51)
async def test_nothing_is_collected_before_the_last_writer_is_dead(arena: Arena) -> None:
    source = """
secret = os.environ["CANARY_FILE"]
write("output/file", b"own")
if os.fork() == 0:
    os.setsid()
    while True:
        os.symlink(secret, "l")
        os.rename("l", "output/file")
        write("f", b"own")
        os.rename("f", "output/file")
        os.rename("output", "away")
        os.symlink(os.path.dirname(secret), "output")
        os.unlink("output")
        os.rename("away", "output")
time.sleep(0.2)
"""
    for _ in range(3):
        async with arena.open(arena.python_spec(source)) as run:
            # Asked for while the task still runs: it must wait for its end.
            collected, found = await arena.collect(run)
            assert not arena.task_processes()
            assert (await run.wait()).exit_code == 0
        assert found in ({}, {"file": b"own"}), collected


@case(100)
async def test_a_flood_of_files_is_refused_before_it_fills_the_host(arena: Arena) -> None:
    source = "for n in range(6000):\n    os.close(os.open(f'output/{n}', os.O_CREAT))\n"
    target = io.BytesIO()
    async with arena.open(arena.python_spec(source)) as run:
        assert (await run.wait()).exit_code == 0
        with pytest.raises(sandbox.CollectFailed, match="files"):
            await run.collect(target, max_bytes=1 << 20, max_files=500)
    assert len(target.getvalue()) < 1 << 20


@case(101)
async def test_names_that_are_no_text_are_left_out_and_shown_harmlessly(arena: Arena) -> None:
    collected, found = await arena.leave(
        arena.python_spec(r"""
os.chdir("output")
for name in (b"new\nline", b"\x1b[2Jclear", b"not-\xff-utf8", b"-rf", b"back\\slash", b"tab\t",
             b"del\x7f", "r\u202etl".encode(), b"n" * 255):
    os.close(os.open(name, os.O_CREAT))
""")
    )
    assert set(found) == {"-rf", "back\\slash", "r\u202etl", "n" * 255}
    assert len(collected.skipped) == 5
    assert all(name.isprintable() for name in collected.skipped)
