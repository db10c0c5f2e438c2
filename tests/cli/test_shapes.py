"""The JSON of every listing holds all that the records say, under keys that are promised."""

import json
import math
from pathlib import Path

import attrs

from hivemind.cli import shapes
from hivemind.core.confinement import Network
from hivemind.core.messages import Identity, NodeView, Secret, TaskDetail
from hivemind.core.policy import Mount
from hivemind.core.records import (
    Attempt,
    Capacity,
    Outcome,
    Reason,
    Requirements,
    Role,
    Task,
    TaskState,
    Usage,
    Vitals,
)
from hivemind.settings.origins import Setting

TASK = Task(id="t1", account="ann", state=TaskState.FAILED, reason=Reason.EXITED, exit_code=3)
ATTEMPT = Attempt(
    task_id="t1",
    number=1,
    node_id="n1",
    lease_id="secret",
    assigned_at=1.0,
    outcome=Outcome.FAILED,
    reason=Reason.EXITED,
    exit_code=3,
)


def _fields(record: type) -> set[str]:
    return {field.name for field in attrs.fields(record)}


def test_a_task_shows_every_field_but_the_masters_own_bookkeeping() -> None:
    shape = shapes.task_shape(TASK)
    assert set(shape) == _fields(Task) - {"client_key", "backoff_s"}
    assert set(shape["requirements"]) == _fields(Requirements)
    assert (shape["state"], shape["reason"], shape["exit_code"]) == ("failed", "exited", 3)


def test_show_adds_the_attempts_without_their_leases() -> None:
    shape = shapes.detail_shape(TaskDetail(task=TASK, attempts=(ATTEMPT,)))
    (attempt,) = shape["attempts"]
    assert set(attempt) == _fields(Attempt) - {"task_id", "lease_id", "report_seq", "refusal"}
    assert set(attempt["usage"]) == _fields(Usage)
    assert attempt["outcome"] == "failed"


def test_a_node_shows_its_limits_and_what_is_reserved() -> None:
    vitals = Vitals(
        cpu_percent=1.0,
        memory_used_bytes=2,
        memory_total_bytes=3,
        load_1m=4.0,
        disk_free_bytes=5,
        running=1,
    )
    shape = shapes.node_shape(
        NodeView(
            id="n1", account="ann", name="box", status="online", vitals=vitals, limits="best-effort"
        )
    )
    assert shape["limits"] == "best-effort"
    assert set(shape["capacity"]) == _fields(Capacity)
    assert set(shape["vitals"]) == _fields(Vitals)
    assert set(shape["reserved"]) == {"cpu_millis", "memory_bytes"}


def test_an_unheard_node_has_no_vitals() -> None:
    node = NodeView(id="n1", account="ann", name="box", status="offline")
    assert shapes.node_shape(node)["vitals"] is None


def test_every_shape_is_json() -> None:
    identity = Identity(account="ann", role=Role.USER, email="", created_at=1.0, expires_at=2.0)
    secret = Secret(text="s", expires_at=3.0)
    for shape in (
        shapes.detail_shape(TaskDetail(task=TASK, attempts=(ATTEMPT,))),
        shapes.identity_shape(identity, "127.0.0.1:1"),
        shapes.secret_shape("join_token", secret),
    ):
        assert json.loads(json.dumps(shape)) == shape
    assert shapes.secret_shape("join_token", secret) == {"join_token": "s", "expires_at": 3.0}


def test_a_policys_values_are_plain_json_with_the_place_that_each_came_from() -> None:
    settings = (
        Setting(key="cpu_time.most", value=math.inf, origin=None),
        Setting(key="mounts", value=(Mount("/a", "/b"),), origin=Path("/p.toml")),
        Setting(key="network", value=Network.NONE, origin=Path("/p.toml")),
        Setting(key="env", value={"TZ": "UTC"}, origin=None),
    )
    shape = json.loads(json.dumps(shapes.policies_shape({"lab": settings})))
    assert shape["policies"]["lab"] == {
        "cpu_time.most": {"value": None, "from": "built-in"},
        "mounts": {"value": [{"source": "/a", "target": "/b"}], "from": "/p.toml"},
        "network": {"value": "none", "from": "/p.toml"},
        "env": {"value": {"TZ": "UTC"}, "from": "built-in"},
    }
