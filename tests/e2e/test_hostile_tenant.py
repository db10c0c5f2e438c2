"""An account that means harm: what it hands in costs the others nothing, and tells it nothing.

One master serves all of these, as it would in life.
"""

import base64
import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.pool import Daemon, Pool, open_pool_folder

CLIENT = Path(__file__).with_name("peers") / "any_client.py"
UPLOAD = "/nodepool.MasterNodeService/UploadTask"
Reply = dict[str, Any]


@attrs.define
class Tenant:
    """An account, with a grpcio client in a process of its own."""

    process: subprocess.Popen[bytes]
    token: str = ""

    def begin(self, *calls: tuple[str, dict[str, object]]) -> None:
        """Make calls, all at once."""
        asked = [
            {"method": method, "token": self.token, "message": message} for method, message in calls
        ]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> list[Reply]:
        """What they came to."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the client has ended"
        replies: list[Reply] = json.loads(line)
        return replies

    def call(self, method: str, **message: object) -> Reply:
        """One call, and what it came to."""
        self.begin((method, message))
        (reply,) = self.end()
        return reply


@attrs.frozen
class Scene:
    """A master, and two accounts of it."""

    master: Daemon
    mallory: Tenant
    alice: Tenant


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, stubs: Path) -> Iterator[Scene]:
    with open_pool_folder(tmp_path_factory.mktemp("hostile")) as pool:
        yield from _scene(pool, stubs)


def _scene(pool: Pool, stubs: Path) -> Iterator[Scene]:
    policies = pool.root / "master" / "policies"
    policies.mkdir(parents=True)
    (policies / "pool.toml").write_text('grant_cpt = 10_000\nkept_bytes_per_account = "60M"\n')
    master = pool.master()
    tenants = {}
    for name in ("mallory", "alice"):
        process = subprocess.Popen(
            [sys.executable, str(CLIENT), str(stubs), master.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        tenants[name] = tenant = Tenant(process)
        who = {"username": name, "password": f"{name}-password"}
        tenant.call("/nodepool.UserService/Register", **who)
        tenant.token = tenant.call("/nodepool.UserService/Login", **who)["token"]
    try:
        yield Scene(master, tenants["mallory"], tenants["alice"])
    finally:
        for tenant in tenants.values():
            assert tenant.process.stdin is not None
            assert tenant.process.stdout is not None
            tenant.process.stdin.close()
            tenant.process.wait(timeout=30)
            tenant.process.stdout.close()


def encoded(data: bytes) -> dict[str, object]:
    return {"task_data": base64.b64encode(data).decode()}


def tar_of(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def test_a_few_lines_of_settings_take_no_room_and_no_time(scene: Scene) -> None:
    key = b".".join([b"a"] * 12_000)
    scene.master.reset_peak()
    before = scene.master.rss_bytes()
    for data in (
        b"# /// script\n# " + key + b" = 1\n# ///\nprint()\n",
        tar_of(**{"main.py": b"pass", "hivemind.toml": key + b" = 1\n"}),
    ):
        reply = scene.mallory.call(UPLOAD, **encoded(data))
        assert (reply["status"], "nests too deeply" in reply["details"]) == (
            "INVALID_ARGUMENT",
            True,
        )
    assert scene.master.peak_rss_bytes() - before < 64 * 1024 * 1024


def test_archives_that_take_long_to_look_through_keep_nobody_else_waiting(scene: Scene) -> None:
    slow = gzip.compress(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT) * 130_000)
    (alone,) = _looked_through(scene.mallory, slow, 1)
    scene.mallory.begin(*[(UPLOAD, encoded(slow))] * 8)
    time.sleep(0.5)
    reply = scene.alice.call(UPLOAD, **encoded(tar_of(**{"main.py": b"pass"})))
    queued = [one["s"] for one in scene.mallory.end()]
    assert reply["success"], reply
    # Its own wait for each other, which is what makes this a test.
    assert max(queued) > 3 * alone
    assert reply["s"] < max(queued) / 3


def test_programs_that_are_stopped_again_fill_no_more_of_the_disk_than_is_allowed(
    scene: Scene,
) -> None:
    """They cost nothing, since what was held comes back."""
    for number in range(4):
        program = encoded(b"#" * 20_000_000 + b"%d" % number)
        reply = scene.mallory.call(UPLOAD, task_id=f"fill-{number}", **program)
        if not reply.get("success"):
            break
        scene.mallory.call("/nodepool.MasterNodeService/StopTask", task_id=f"fill-{number}")
    assert reply["status"] == "RESOURCE_EXHAUSTED"
    assert "of programs and results here and 60M is the most" in reply["details"]
    blobs = (scene.master.home / "blobs").rglob("*")
    assert sum(path.stat().st_size for path in blobs if path.is_file()) < 64 * 1024 * 1024
    assert scene.alice.call(UPLOAD, **encoded(b"print()"))["success"]


def test_tokens_that_must_be_remembered_when_they_are_taken_back_are_not_made_without_end(
    scene: Scene,
) -> None:
    where = {"hostname": "127.0.0.1", "port": 1, "cpu_cores": 1, "memory_gb": 1}
    joined = scene.mallory.call(
        "/nodepool.NodeManagerService/RegisterWorkerNode", node_id="mallorys", **where
    )
    assert joined["success"], joined
    wish: dict[str, object] = {"node_id": "mallorys", "ttl_s": 30 * 86400}
    scene.mallory.begin(*[("/hivemind.v1.Accounts/CreateNodeToken", wish)] * 120)
    replies = scene.mallory.end()
    assert 100 <= sum("token" in reply for reply in replies) < 115
    refused = [reply for reply in replies if "token" not in reply]
    assert {reply["status"] for reply in refused} == {"RESOURCE_EXHAUSTED"}
    assert "too many tries; wait" in refused[0]["details"]


def test_the_ledger_takes_no_more_of_what_moves_nothing_much_than_people_need(
    scene: Scene,
) -> None:
    """What is in the ledger is there for good, and everybody's history shows what came."""
    crumb: dict[str, object] = {"receiver": "alice", "amount_ucpt": 1, "memo": "x" * 200}
    scene.mallory.begin(*[("/hivemind.v1.Credits/Transfer", crumb)] * 150)
    replies = scene.mallory.end()
    assert 100 <= sum("balance_ucpt" in reply for reply in replies) < 115
    assert scene.alice.call(
        "/nodepool.UserService/Transfer", receiver_username="mallory", amount=1
    )["success"]


def _looked_through(tenant: Tenant, data: bytes, times: int) -> list[float]:
    tenant.begin(*[(UPLOAD, encoded(data))] * times)
    return [float(one["s"]) for one in tenant.end()]
