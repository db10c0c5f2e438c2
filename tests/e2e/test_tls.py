"""A master with a certificate that it signed itself, as somebody would make it with openssl."""

import subprocess
from pathlib import Path

import pytest

from tests.pool import Daemon, Pool

PASSWORD = b"a long password\n"


def make_certificate(folder: Path, names: str) -> Path:
    """``cert.pem`` and ``key.pem``, in a new folder."""
    folder.mkdir(parents=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-noenc", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"),
            *("-subj", "/CN=a pool", "-addext", f"subjectAltName={names}"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


def start_master(pool: Pool, certificate: Path) -> Daemon:
    config = certificate.with_name("master.toml")
    config.write_text(
        f"tls_cert = '{certificate}'\ntls_key = '{certificate.with_name('key.pem')}'\n"
    )
    return pool.master("--config", str(config))


@pytest.fixture
def certificate(pool: Pool) -> Path:
    return make_certificate(pool.root / "keys", "DNS:pool.example,IP:127.0.0.1")


def test_a_master_with_a_certificate_serves_workers_and_people_who_have_it(
    pool: Pool, certificate: Path
) -> None:
    master = start_master(pool, certificate)
    config = pool.root / "worker.toml"
    config.write_text(f"tls_ca = '{certificate}'\n")
    pool.worker(master, "--config", str(config), "--join", pool.join_token(master))

    # More than rides along with an assignment or a report, so that bulk transfers are needed, too.
    script = pool.root / "copy.py"
    script.write_text(
        "import os, sys\n"
        "data = sys.stdin.buffer.read()\n"
        "open(os.environ['HIVEMIND_OUTPUT'] + '/copy', 'wb').write(data)\n"
        "print(len(data))\n"
    )
    fetched = pool.root / "fetched"
    stdin = bytes(range(256)) * 2000
    ran = pool.cli(*("run", "--output", str(fetched), str(script)), home=master.home, stdin=stdin)
    assert (ran.returncode, ran.stdout) == (0, b"512000\n"), ran.stderr.decode()
    assert (fetched / "copy").read_bytes() == stdin

    other = pool.root / "ann"
    told = {"HIVEMIND_MASTER": master.address, "HIVEMIND_TLS_CA": str(certificate)}
    for verb in ("register", "login"):
        done = pool.cli(
            *("account", verb, "ann", "--password-stdin"),
            home=other,
            stdin=PASSWORD,
            environment=told,
        )
        assert done.returncode == 0, done.stderr.decode()
    remembered = pool.cli("whoami", home=other)
    assert b"ann" in remembered.stdout, remembered.stderr.decode()


def test_whoever_lacks_the_certificate_is_told_what_to_do(pool: Pool, certificate: Path) -> None:
    master = start_master(pool, certificate)
    token = pool.join_token(master)
    stranger = pool.root / "stranger"

    def whoami(**environment: str) -> str:
        told = {"HIVEMIND_MASTER": master.address, "HIVEMIND_TOKEN": token} | environment
        done = pool.cli("whoami", home=stranger, environment=told)
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        return done.stderr.decode()

    plain = whoami()
    assert "something listens there" in plain
    assert "set HIVEMIND_TLS_CA" in plain
    another = make_certificate(pool.root / "others", "IP:127.0.0.1")
    refused = whoami(HIVEMIND_TLS_CA=str(another))
    assert "is not trusted" in refused
    assert f"HIVEMIND_TLS_CA names {another}" in refused
    missing = whoami(HIVEMIND_TLS_CA=str(pool.root / "nowhere.pem"))
    assert "nowhere.pem" in missing
    assert "HIVEMIND_TLS_CA" in missing

    worker = pool.cli(
        *("worker", "--master", master.address, "--join", token, "--limits", "best-effort"),
        home=pool.root / "worker",
        environment={"HIVEMIND_TLS_CA": str(another)},
    )
    assert worker.returncode == 1
    assert worker.stdout == b""
    assert worker.stderr.count(b"\n") == 1, worker.stderr.decode()
    assert b"certificate refused" in worker.stderr


def test_whoever_expects_a_certificate_of_a_plain_master_is_told(
    pool: Pool, certificate: Path
) -> None:
    master = pool.master()
    told = {"HIVEMIND_TLS_CA": str(certificate)}
    done = pool.cli("whoami", home=master.home, environment=told)
    assert done.returncode == 1
    assert b"does not speak TLS" in done.stderr
    assert b"HIVEMIND_TLS_CA" in done.stderr


def test_commands_beside_the_master_need_nothing_whatever_name_it_has(pool: Pool) -> None:
    master = start_master(pool, make_certificate(pool.root / "keys", "DNS:*.pool.example"))
    done = pool.cli("whoami", home=master.home)
    assert b"admin" in done.stdout, done.stderr.decode()
    pool.worker(master, home="master")
    ran = pool.cli("run", "--", "echo", "ran", home=master.home)
    assert ran.stdout == b"ran\n", ran.stderr.decode()


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem"])
def test_a_certificate_that_cannot_be_used_is_one_line(
    pool: Pool, certificate: Path, broken: str
) -> None:
    certificate.with_name(broken).write_text("nothing of the kind")
    with pytest.raises(AssertionError) as caught:
        start_master(pool, certificate)
    log = str(caught.value).partition("\n")[2]
    assert log.count("\n") == 1
    assert "cert.pem" in log
