"""A pool with an authority of its own, made by ``hivemind tls``: who gets in, and what others are
told.
"""

import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hivemind.settings.credentials import read_credentials
from tests.pool import (
    HIVEMIND,
    LIMITS,
    Daemon,
    Pool,
    clean_environment,
    open_pool_folder,
    wait_until,
)

PEER = Path(__file__).with_name("peers") / "certified.py"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(pool: Pool) -> Path:
    """What ``tls init`` and ``tls issue`` make; ``others`` is another authority's folder."""
    folder = pool.root / "tls"
    for where in (folder, folder / "others"):
        tls(pool, "init", str(where), "--host", "127.0.0.1", "--host", "pool.example")
        for name in (["worker"], ["ann", "--client"]):
            tls(pool, "issue", "--dir", str(where), *name)
    return folder


def tls(pool: Pool, *arguments: str) -> str:
    done = pool.cli("tls", *arguments, home=pool.root / "nobody")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def own(keys: Path, name: str) -> tuple[str, ...]:
    return ("--tls-cert", str(keys / f"{name}.pem"), "--tls-key", str(keys / f"{name}-key.pem"))


@pytest.fixture(scope="module")
def master(pool: Pool, keys: Path) -> Daemon:
    """A master that takes workers of its authority alone, and listens to everybody."""
    ca = ("--tls-ca", str(keys / "ca.pem"))
    return pool.master(*own(keys, "server"), *ca, listen="0.0.0.0:0")


@pytest.fixture(scope="module")
def address(master: Daemon) -> str:
    return f"127.0.0.1:{master.address.rpartition(':')[2]}"


def refused(*arguments: str, home: Path, **variables: str) -> str:
    """The one line with which a command ends that may not go on."""
    done = subprocess.run(
        [HIVEMIND, *arguments],
        stdin=subprocess.DEVNULL,
        env=clean_environment(HIVEMIND_HOME=str(home), **variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b""), done
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()
    return done.stderr.decode()


def test_workers_come_with_a_certificate_and_people_without(
    pool: Pool, keys: Path, master: Daemon, address: str, stubs: Path
) -> None:
    ca = ("--tls-ca", str(keys / "ca.pem"))
    joining = ("--join", pool.join_token(master))
    lonely = ("worker", "--master", address, "--limits", LIMITS, *ca, *joining)
    said = refused(*lonely, home=pool.root / "lonely")
    assert "certificate of the pool's authority" in said
    assert "--tls-cert" in said
    said = refused(*lonely, *own(keys / "others", "worker"), home=pool.root / "stranger")
    assert "refuses this end's certificate: another authority signed it" in said

    pool.worker(address, *ca, *own(keys, "worker"), *joining)
    ran = pool.cli("run", "--", "echo", "ran", home=master.home)
    assert ran.stdout == b"ran\n", ran.stderr.decode()

    token = account_token(master)
    peer = subprocess.run(
        [sys.executable, str(PEER), str(stubs), address, str(keys), token],
        env=clean_environment(GRPC_VERBOSITY="NONE"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert peer.returncode == 0, peer.stderr.decode()
    seen = json.loads(peer.stdout)
    for caller in ("", "worker", "ann"):
        assert seen[caller]["login"][0] == "OK", seen
        assert seen[caller]["whoami"][0] == "OK", seen
    status, text = seen[""]["challenge"]
    assert (status, "--tls-cert" in text) == ("PERMISSION_DENIED", True), seen
    assert "authority" not in seen["worker"]["challenge"][1]


def account_token(master: Daemon) -> str:
    credentials = read_credentials(master.home)
    assert credentials is not None
    return credentials.token


def test_a_renewed_certificate_is_used_from_sighup_on_and_a_broken_one_is_not(
    pool: Pool, keys: Path, master: Daemon, address: str
) -> None:
    before = shown_by(address)
    key = (keys / "server-key.pem").read_bytes()
    (keys / "server-key.pem").write_text("nothing of the kind")
    master.process.send_signal(signal.SIGHUP)
    wait_until("the fault is logged", lambda: "certificate_not_reloaded" in log_of(master))
    assert shown_by(address) == before
    (keys / "server-key.pem").write_bytes(key)
    tls(pool, "issue", "--dir", str(keys), "server", "--force")
    master.process.send_signal(signal.SIGHUP)
    wait_until("another certificate is shown", lambda: shown_by(address) != before)
    assert pool.cli("whoami", home=master.home).returncode == 0
    # Links that are there stay.
    ran = pool.cli("run", "--", "echo", "ran", home=master.home)
    assert ran.stdout == b"ran\n", ran.stderr.decode()


def shown_by(address: str) -> str:
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def log_of(daemon: Daemon) -> str:
    return daemon.log.read_text()


def test_a_pool_may_ask_everybody_for_a_certificate(pool: Pool, keys: Path) -> None:
    ca = str(keys / "ca.pem")
    strict = pool.master(
        *own(keys, "server"), "--tls-ca", ca, "--tls-clients", "required", home="strict"
    )
    # Commands beside the master need not be told.
    told = {
        "HIVEMIND_MASTER": strict.address,
        "HIVEMIND_TOKEN": account_token(strict),
        "HIVEMIND_TLS_CA": ca,
    }
    assert pool.cli("whoami", home=strict.home).returncode == 0
    elsewhere = pool.root / "elsewhere"
    said = refused("whoami", home=elsewhere, **told)
    assert "takes nobody without a certificate of its authority" in said
    assert "HIVEMIND_TLS_CERT" in said
    mine = {
        "HIVEMIND_TLS_CERT": str(keys / "ann.pem"),
        "HIVEMIND_TLS_KEY": str(keys / "ann-key.pem"),
    }
    done = pool.cli("whoami", home=elsewhere, environment=told | mine)
    assert done.returncode == 0, done.stderr.decode()
    assert strict.stop() == 0


def test_up_lets_its_own_worker_in(pool: Pool, keys: Path) -> None:
    up = pool.up(*own(keys, "server"), "--tls-ca", str(keys / "ca.pem"))
    ran = pool.cli("run", "--", "echo", "ran", home=up.home)
    assert ran.stdout == b"ran\n", ran.stderr.decode()
    assert up.stop() == 0


def test_a_login_remembers_how_to_speak_to_its_master(
    pool: Pool, keys: Path, master: Daemon, address: str
) -> None:
    home, told = pool.root / "bea", {"HIVEMIND_MASTER": address}
    ca = ("--tls-ca", str(keys / "ca.pem"), *own(keys, "ann"), "--password-stdin")
    code = pool.cli("account", "invite", home=master.home).stdout.decode().strip()
    for verb in (("register", "bea", "--invite", code), ("login", "bea")):
        done = pool.cli(
            "account", *verb, *ca, home=home, stdin=b"a long password\n", environment=told
        )
        assert done.returncode == 0, done.stderr.decode()
    assert b"bea" in pool.cli("whoami", home=home).stdout


@pytest.mark.parametrize("daemon", ["up", "master"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_nobody_is_listened_to_in_plain_text_from_elsewhere(
    pool: Pool, daemon: str, host: str
) -> None:
    if host == "[::]" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    home = pool.root / f"plain-{daemon}"
    said = refused(daemon, "--home", str(home), "--listen", f"{host}:0", home=home)
    assert "in plain text" in said
    assert "--tls-cert" in said
    assert "--allow-plaintext" in said
    assert not home.exists()


def test_a_master_listens_in_plain_text_where_its_owner_says_so(pool: Pool) -> None:
    plain = pool.master("--allow-plaintext", listen="0.0.0.0:0", home="plain")
    assert pool.cli("whoami", home=plain.home).returncode == 0
    config = pool.root / "plain.toml"
    config.write_text("allow_plaintext = true\n")
    assert plain.stop() == 0
    again = pool.master("--config", str(config), listen="localhost:0", home="plain")
    assert again.stop() == 0


ELSEWHERE = """
ip link set lo up
ip addr add 10.9.9.1/32 dev lo
ip addr add 10.9.9.2/32 dev lo
ip route replace local 10.9.9.1 dev lo table local src 10.9.9.2
exec "$@"
"""
"""A network in which 10.9.9.1 is called from another address than its own, as from elsewhere."""


@pytest.mark.root
def test_no_token_leaves_the_machine_in_plain_text(pool: Pool) -> None:
    home = pool.root / "far"
    with (pool.root / "far.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("unshare", "--net", "sh", "-ec", ELSEWHERE, "sh", HIVEMIND, "master"),
                *("--home", str(home), "--listen", "10.9.9.1:0", "--allow-plaintext"),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            env=clean_environment(),
        )
    try:
        assert process.stdout is not None
        word, address = process.stdout.readline().decode().split()
        assert word == "ready"
        token = (home / "credentials.toml").read_text().split('token = "')[1].split('"')[0]
        inside = ("nsenter", "--net", "--target", str(process.pid), HIVEMIND)

        def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
            told = {"HIVEMIND_MASTER": address, "HIVEMIND_TOKEN": token} | variables
            return subprocess.run(
                [*inside, *arguments],
                env=clean_environment(HIVEMIND_HOME=str(pool.root / "near"), **told),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        done = run("whoami")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "could read passwords and tokens" in done.stderr
        assert "HIVEMIND_ALLOW_PLAINTEXT=1" in done.stderr
        worker = ("worker", "--home", str(pool.root / "far-worker"), "--limits", "best-effort")
        done = run(*worker, "--master", address)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "in plain text" in done.stderr
        assert "--tls-ca" in done.stderr
        done = run("whoami", HIVEMIND_ALLOW_PLAINTEXT="1")
        assert (done.returncode, "admin" in done.stdout) == (0, True), done.stderr
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.mark.root
def test_nodes_elsewhere_are_pushed_to_by_the_pools_authority_or_not_at_all(pool: Pool) -> None:
    folder = pool.root / "push-tls"
    for where in (folder, folder / "others"):
        tls(pool, "init", str(where), "--host", "127.0.0.1")
    tls(pool, "issue", "--dir", str(folder), "node", "--host", "10.9.9.1")
    done = subprocess.run(
        [
            *("unshare", "--net", "sh", "-ec", ELSEWHERE, "sh", sys.executable),
            *(str(Path(__file__).with_name("peers") / "push_dial.py"), str(folder)),
        ],
        cwd=Path(__file__).resolve().parents[2],
        env=clean_environment(PYTHONPATH="."),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["plain, forbidden"].startswith("PlaintextRefused: ")
    assert seen["plain, allowed"] == "reached"
    assert seen["secure"] == "reached"
    assert seen["plain, with an authority"].startswith("TlsFailed: ")
    assert seen["secure, another authority's"].startswith("CertificateRefused: ")
    assert seen["own, forbidden"].startswith("AddressRefused: ")
    assert seen["own, allowed"] == "reached"


def test_a_key_that_every_user_may_read_is_told_of(pool: Pool, keys: Path) -> None:
    folder = pool.root / "open-key"
    shutil.copytree(keys, folder)
    key = folder / "server-key.pem"
    key.chmod(0o640)
    guarded = pool.master(*own(folder, "server"), home="guarded")
    assert "key_open_to_all" not in guarded.log.read_text()
    key.chmod(0o644)
    guarded.process.send_signal(signal.SIGHUP)
    wait_until("it is told", lambda: "key_open_to_all" in guarded.log.read_text())
    assert f"chmod 600 {key}" in guarded.log.read_text()
    assert guarded.stop() == 0
    worker = pool.lone_worker(*own(folder, "server"), home="open-worker")
    assert f"chmod 600 {key}" in worker.log.read_text()
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("expired", "no client would accept the certificate"),
        ("early", "no client would accept the certificate"),
        ("missing", "cannot read the key"),
        ("encrypted", "is encrypted"),
        ("another's", "the key is not the certificate's"),
    ],
)
def test_a_certificate_that_cannot_be_served_is_one_line(
    pool: Pool, tmp_path: Path, keys: Path, spoil: str, words: str
) -> None:
    folder = tmp_path / "spoilt"
    spoilt_pair(folder, spoil, keys)
    said = refused("master", *own(folder, "server"), "--listen", "127.0.0.1:0", home=tmp_path / "h")
    assert words in said
    assert str(folder) in said


def spoilt_pair(folder: Path, spoil: str, keys: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from hivemind.settings.certificates import make_authority

    days = {"expired": -30, "early": 30}.get(spoil, 0)
    now = datetime.now(UTC) + timedelta(days=days)
    _, server = make_authority(folder, ["localhost"], days=1, now=now)
    if spoil == "missing":
        server.key.unlink()
    elif spoil == "another's":
        server.key.write_bytes((keys / "server-key.pem").read_bytes())
    elif spoil == "encrypted":
        command = ["openssl", "pkey", "-in", server.key, "-aes256", "-passout", "pass:x"]
        done = subprocess.run(command, capture_output=True, check=True)
        server.key.write_bytes(done.stdout)
