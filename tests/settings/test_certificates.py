"""A small authority and what it signs, judged by another TLS library: OpenSSL, through ssl."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hivemind.settings.certificates import CertificateNotMade, Pair, issue, make_authority

NOW = datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tls"
    make_authority(made, ["localhost", "192.0.2.1", "::1", "*.pool.example"], days=30, now=NOW)
    return made


def read(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate.read_bytes())


def speaks(ca: Path, server: Pair, client: Pair, name: str) -> None:
    """Return where both ends of a handshake in memory accept each other."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(server.certificate, server.key)
    server_side.load_verify_locations(ca)
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.load_cert_chain(client.certificate, client.key)
    client_side.load_verify_locations(ca)
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    far = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert near.version() == far.version() == "TLSv1.3"


def test_what_the_authority_signs_is_accepted_for_its_names_and_no_other(folder: Path) -> None:
    ca, server = folder / "ca.pem", Pair.of(folder, "server")
    worker = issue(folder, "worker-1", [], days=30, now=NOW)
    for name in ("localhost", "192.0.2.1", "::1", "a.pool.example"):
        speaks(ca, server, worker, name)
    speaks(ca, worker, server, "worker-1")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        speaks(ca, server, worker, "elsewhere.example")


def test_a_clients_certificate_is_none_for_a_server(folder: Path) -> None:
    ann = issue(folder, "ann", [], days=1, now=NOW, for_clients_alone=True)
    speaks(folder / "ca.pem", Pair.of(folder, "server"), ann, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        speaks(folder / "ca.pem", ann, ann, "ann")
    usages = read(ann).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_what_another_authority_signed_is_refused(folder: Path, tmp_path: Path) -> None:
    _, other = make_authority(tmp_path / "other", ["localhost"], days=1, now=NOW)
    with pytest.raises(ssl.SSLError):
        speaks(folder / "ca.pem", other, other, "localhost")


def test_a_certificate_of_the_authority_can_sign_nothing(folder: Path) -> None:
    for pair, is_authority in ((Pair.of(folder, "ca"), True), (Pair.of(folder, "server"), False)):
        constraints = read(pair).extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca) == (True, is_authority)
        usage = read(pair).extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.critical, usage.value.key_cert_sign) == (True, is_authority)


def test_keys_are_their_owners_alone_and_nothing_else_is_left(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "server.pem": 0o644,
        "server-key.pem": 0o600,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_certificate_is_good_from_an_hour_ago_for_as_long_as_was_asked(folder: Path) -> None:
    server, authority = read(Pair.of(folder, "server")), read(Pair.of(folder, "ca"))
    whole = NOW.replace(microsecond=0)
    assert server.not_valid_before_utc == whole - timedelta(hours=1)
    assert server.not_valid_after_utc == whole + timedelta(days=30)
    assert authority.not_valid_after_utc == whole + timedelta(days=3650)
    with pytest.raises(CertificateNotMade, match="cannot outlast it"):
        issue(folder, "long", [], days=3651, now=NOW)


def test_nothing_that_is_there_is_replaced_unless_forced(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CertificateNotMade, match=r"ca-key\.pem is there already: --force"):
        make_authority(folder, ["localhost"], days=1, now=NOW)
    with pytest.raises(CertificateNotMade, match=r"server-key\.pem is there already: --force"):
        issue(folder, "server", [], days=1, now=NOW)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    # A renewal is for the same hosts as what it replaces.
    renewed = issue(folder, "server", [], days=1, now=NOW, force=True)
    assert renewed.key.read_bytes() != before[renewed.key]
    speaks(folder / "ca.pem", renewed, renewed, "192.0.2.1")


@pytest.mark.parametrize("name", ["", "ca", "x-key", "a/b", "..", "a" * 65, "ü", "-a", "a b"])
def test_a_name_that_could_be_another_file_is_refused(folder: Path, name: str) -> None:
    before = set(folder.iterdir())
    with pytest.raises(CertificateNotMade, match="cannot name a certificate") as caught:
        issue(folder, name, ["localhost"], days=1, now=NOW)
    assert "\n" not in str(caught.value)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("host", ["", "a b", "ü.example", "a..b", "http://a", "a" * 300, "-.x"])
def test_what_is_no_host_is_refused_and_nothing_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertificateNotMade, match="neither an address nor the name of a host"):
        make_authority(tmp_path / "tls", [host], days=1, now=NOW)
    assert not (tmp_path / "tls").exists()


def test_an_authority_that_is_missing_damaged_or_anothers_is_told(folder: Path) -> None:
    authority = Pair.of(folder, "ca")
    authority.key.write_bytes((folder / "server-key.pem").read_bytes())
    with pytest.raises(CertificateNotMade, match="is not the key of"):
        issue(folder, "a", [], days=1, now=NOW)
    authority.key.write_text("nothing of the kind")
    with pytest.raises(CertificateNotMade, match="damaged or encrypted"):
        issue(folder, "a", [], days=1, now=NOW)
    authority.key.unlink()
    with pytest.raises(CertificateNotMade, match="hivemind tls init"):
        issue(folder, "a", [], days=1, now=NOW)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CertificateNotMade, match="is no folder"):
        make_authority(tmp_path / "file", ["localhost"], days=1, now=NOW)
    with pytest.raises(CertificateNotMade, match="cannot be written"):
        make_authority(Path("/proc/nowhere"), ["localhost"], days=1, now=NOW)
