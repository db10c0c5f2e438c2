"""Commands about tasks against a real pool: what they print, for people and as JSON."""

import json
import re
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hivemind.core.records import TaskState
from tests.cli.conftest import Shell
from tests.pool import HIVEMIND


@pytest.fixture(scope="module")
def failed(shell: Shell) -> str:
    """A task that said something on both streams, left a file, and failed with 3."""
    script = "echo out; echo err >&2; echo left > output/file; exit 3"
    task_id = shell.client.submit(command=["sh", "-c", script], name="odd")
    shell.client.wait(task_id)
    return task_id


def _json(shell: Shell, *arguments: str) -> Any:
    done = shell.run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_submit_prints_the_id_alone_and_wait_waits_for_it(shell: Shell) -> None:
    done = shell.run("submit", "--", "sh", "-c", "exit 0")
    assert re.fullmatch(r"[0-9a-z]{26}\n", done.stdout)
    assert done.stderr == ""
    waited = shell.run("wait", done.stdout.strip())
    assert (waited.returncode, waited.stdout, waited.stderr) == (0, "", "")


def test_wait_is_1_with_a_line_for_each_that_did_not_succeed(shell: Shell, failed: str) -> None:
    good = shell.client.submit(command=["true"])
    done = shell.run("wait", good, failed, "unknown")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == f"hivemind: task {failed} failed with exit status 3"
    assert second == (
        "hivemind: no task 'unknown'; `hivemind ps --all`, or GetAllTasks, lists yours"
    )


def test_logs_keeps_the_streams_apart(shell: Shell, failed: str) -> None:
    for options in ([], ["-f"]):
        done = shell.run("logs", *options, failed)
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_logs_without_f_does_not_wait_for_the_end(shell: Shell) -> None:
    task_id = shell.client.submit(command=["sleep", "60"])
    done = shell.run("logs", task_id)
    assert (done.returncode, done.stdout) == (0, "")
    assert not shell.client.get(task_id).task.state.is_end
    shell.client.stop(task_id)


def test_stop_returns_when_nothing_runs_any_more(shell: Shell) -> None:
    tasks = [shell.client.submit(command=["sleep", "60"]) for _ in range(2)]
    done = shell.run("stop", *tasks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {shell.client.get(task).task.state for task in tasks} == {TaskState.STOPPED}


def test_stop_tells_of_what_it_cannot_stop_and_stops_the_rest(shell: Shell) -> None:
    task_id = shell.client.submit(command=["sleep", "60"])
    done = shell.run("stop", "unknown", task_id)
    assert done.returncode == 1
    assert done.stderr.startswith("hivemind: no task 'unknown'")
    assert shell.client.get(task_id).task.state is TaskState.STOPPED


def test_result_fetches_the_files_or_the_zip(shell: Shell, failed: str, tmp_path: Path) -> None:
    assert shell.run("result", failed, "-o", str(tmp_path / "o")).returncode == 0
    assert (tmp_path / "o/file").read_text() == "left\n"
    assert shell.run("result", failed, "-o", str(tmp_path / "r.zip")).returncode == 0
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.read("stderr.txt") == b"err\n"


def test_the_result_of_a_task_that_runs_is_not_there_yet(shell: Shell, tmp_path: Path) -> None:
    task_id = shell.client.submit(command=["sleep", "60"])
    done = shell.run("result", task_id, "-o", str(tmp_path / "o"))
    shell.client.stop(task_id)
    assert done.returncode == 1
    assert "wait for its end" in done.stderr
    assert not (tmp_path / "o").exists()


def test_ps_lists_what_has_not_ended_and_all_of_it_on_request(shell: Shell, failed: str) -> None:
    running = shell.client.submit(command=["sleep", "60"], name="runs")
    unfinished = [task["id"] for task in _json(shell, "ps")["tasks"]]
    listed = _json(shell, "ps", "--all")["tasks"]
    everything = [task["id"] for task in listed]
    nodes = [node["id"] for node in _json(shell, "nodes")["nodes"]]
    text = shell.run("ps", "--all").stdout
    shell.client.stop(running)
    assert running in unfinished
    assert failed not in unfinished
    assert everything.index(running) < everything.index(failed)
    assert text.splitlines()[0].split() == ["ID", "NAME", "STATE", "NODE", "AGE", "RAN"]
    line = next(line for line in text.splitlines() if line.startswith(failed))
    assert "failed (3)" in line
    assert [listed[everything.index(failed)]["node_id"]] == nodes
    assert [_json(shell, "show", failed)["node_id"]] == nodes


def test_show_tells_the_whole_story(shell: Shell, failed: str) -> None:
    shown = _json(shell, "show", failed)
    assert (shown["id"], shown["state"], shown["exit_code"]) == (failed, "failed", 3)
    (attempt,) = shown["attempts"]
    assert (attempt["number"], attempt["outcome"]) == (1, "failed")
    assert attempt["usage"]["wall_s"] > 0
    text = shell.run("show", failed).stdout
    assert re.search(r"^exit status: +3$", text, re.MULTILINE)
    assert "ATTEMPT" in text


def test_explain_says_what_a_task_waits_for(shell: Shell) -> None:
    task_id = shell.client.submit(command=["true"], ask=_more_than_there_is())
    explained = _json(shell, "explain", task_id)
    text = shell.run("explain", task_id).stdout
    shell.client.stop(task_id)
    assert explained["id"] == task_id
    assert explained["causes"]
    assert {"kind", "text", "count"} == set(explained["causes"][0])
    assert text == f"{task_id}: {explained['headline']}\n"


def test_a_wait_that_may_have_no_end_is_told_once_with_what_to_do(shell: Shell) -> None:
    ran = shell.start("run", "--cpus", "64", "--", "true")
    assert ran.stderr is not None
    said = ran.stderr.readline().decode()
    found = re.fullmatch(
        r"hivemind: task (\w+) waits: no node has 64 CPUs \(the largest has .*\); ask for less, or"
        r" add a node that has it, or end it with `hivemind stop \1`\n",
        said,
    )
    assert found is not None, said
    waits = shell.start("wait", found[1])
    assert waits.stderr is not None
    assert waits.stderr.readline().decode() == said
    shell.client.stop(found[1])
    for command in (ran, waits):
        _, rest = command.communicate(timeout=20)
        assert b"waits" not in rest


def _more_than_there_is() -> Any:
    from hivemind.core.admission import Ask

    return Ask(cpu_millis=64_000)


def test_nodes_shows_how_limits_are_enforced(shell: Shell) -> None:
    (node,) = _json(shell, "nodes")["nodes"]
    assert (node["status"], node["sandbox"]) == ("online", "enabled")
    assert node["limits"] in {"cgroup", "best-effort"}
    assert node["capacity"]["slots"] == 4
    assert node["limits"] in shell.run("nodes").stdout


def test_unknown_ids_are_told_in_one_line(shell: Shell, tmp_path: Path) -> None:
    for command in (["show"], ["explain"], ["logs"], ["result", "-o", str(tmp_path / "o")]):
        done = shell.run(*command, "no-such-task")
        assert done.returncode == 1
        assert re.fullmatch(r"hivemind: no task .*\n", done.stderr)


def test_a_listing_that_cannot_be_written_is_told_in_one_line(shell: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        for arguments in (["ps"], ["ps", "--json"], ["account", "whoami"]):
            done = subprocess.run(
                [HIVEMIND, *arguments],
                env=shell.environment,
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
            assert done.returncode == 1
            said = done.stderr.decode()
            assert said.startswith("hivemind: standard output cannot be written: No space left")
            assert said.count("\n") == 1


def test_a_listing_whose_reader_went_away_ends_by_sigpipe(shell: Shell) -> None:
    with shell.start("nodes", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == -signal.SIGPIPE
