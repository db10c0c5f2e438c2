"""The three kinds of network that a run may have."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

import sandbox
from tests.sandbox.conftest import python

_LOOK = """
import json, os, socket, sys
def attempt(action):
    try:
        action()
    except OSError as error:
        return error.strerror
    return "yes"
def connect(family, address):
    with socket.socket(family) as client:
        client.connect(address)
port, name = int(sys.argv[1]), sys.argv[2]
print(json.dumps(dict(
    namespace=os.readlink("/proc/self/ns/net"),
    unix=attempt(socket.socketpair),
    inet=attempt(lambda: socket.socket(socket.AF_INET).close()),
    inet6=attempt(lambda: socket.socket(socket.AF_INET6).close()),
    netlink=attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
    hosts_loopback=attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", port))),
    hosts_abstract=attempt(lambda: connect(socket.AF_UNIX, "\\0" + name)),
    own_loopback=attempt(lambda: socket.create_server(("127.0.0.1", 0)).close()),
    resolv=open("/etc/resolv.conf", errors="replace").read(),
    hosts=open("/etc/hosts", errors="replace").read(),
)))
"""


def _namespace(name: str) -> str:
    return str(Path(f"/proc/self/ns/{name}").readlink())


async def _look(pool: sandbox.Pool, network: str) -> dict[str, str]:
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        name = f"sandbox-test-network-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        spec = python(_LOOK, network=network)
        words = (*spec.argv, str(listener.getsockname()[1]), name)
        done = await sandbox.run_in(pool, sandbox.Spec(argv=words, network=spec.network))
    assert done.result.exit_code == 0, done.stderr.decode()
    told: dict[str, str] = json.loads(done.stdout)
    return told


async def test_without_a_network_there_are_only_unix_sockets(any_pool: sandbox.Pool) -> None:
    told = await _look(any_pool, "none")
    assert told["unix"] == "yes"
    for kind in ("inet", "inet6", "netlink", "hosts_loopback", "own_loopback"):
        assert told[kind] == "Operation not permitted", kind
    assert told["hosts_abstract"] == "Connection refused"
    assert told["namespace"] != _namespace("net")
    assert told["resolv"] == ""


async def test_with_loopback_it_reaches_itself_alone(any_pool: sandbox.Pool) -> None:
    told = await _look(any_pool, "loopback")
    assert {told["unix"], told["inet"], told["own_loopback"]} == {"yes"}
    assert {told["hosts_loopback"], told["hosts_abstract"]} == {"Connection refused"}
    assert told["namespace"] != _namespace("net")
    assert told["resolv"] == ""
    assert socket.gethostname() not in told["hosts"].split()


async def test_with_the_full_network_it_is_in_the_machines_own(any_pool: sandbox.Pool) -> None:
    told = await _look(any_pool, "full")
    for kind in ("unix", "inet", "hosts_loopback", "hosts_abstract", "own_loopback"):
        assert told[kind] == "yes", kind
    assert told["netlink"] == "Operation not permitted"
    assert told["namespace"] == _namespace("net")
    for name in ("resolv", "hosts"):
        path = Path("/etc") / {"resolv": "resolv.conf"}.get(name, name)
        assert told[name] == (path.read_text(errors="replace") if path.exists() else "")


async def test_the_full_network_gives_no_other_namespace_away(any_pool: sandbox.Pool) -> None:
    source = """
import json, os
names = os.listdir("/proc/self/ns")
print(json.dumps({name: os.readlink(f"/proc/self/ns/{name}") for name in names}))
"""
    done = await sandbox.run_in(any_pool, python(source, network="full"))
    inside = json.loads(done.stdout)
    for name in ("user", "mnt", "pid", "ipc", "uts", "cgroup"):
        assert inside[name] != _namespace(name), name


def test_a_network_of_another_name_is_refused() -> None:
    with pytest.raises(sandbox.BadSpec, match="no network mode 'host'"):
        sandbox.Spec(argv=("true",), network="host")  # type: ignore[arg-type]
