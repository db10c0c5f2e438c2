"""A small authority, and certificates that it signs: files in PEM, made for one pool.

Keys are ECDSA on P-256, which every TLS library takes; BoringSSL, and so grpcio, takes no Ed25519.
A certificate begins an hour before it is made, for machines whose clocks are late.

This module alone needs ``cryptography``, whose import takes longer than most commands: import it
where it is used.
"""

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hivemind.settings.errors import SettingsError

AUTHORITY = "ca"
SERVER = "server"
AUTHORITY_DAYS = 3650
MOST_DAYS = 36500

_CLOCK_SLACK = timedelta(hours=1)
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_])?")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class CertificateNotMade(SettingsError):
    """A certificate could not be made as asked; the text is one line that says what to do."""


@attrs.frozen
class Pair:
    """The files of one certificate."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> "Pair":
        """Where a folder keeps what is called ``name``."""
        return cls(folder / f"{name}.pem", folder / f"{name}-key.pem")


def make_authority(
    folder: Path, hosts: Sequence[str], *, days: int, now: datetime, force: bool = False
) -> tuple[Pair, Pair]:
    """A new authority in ``folder``, which is made where it is missing, and a server's certificate
    for ``hosts``: names and addresses. On disk when this returns; keys are their owner's alone.

    Raises:
        CertificateNotMade: something of the kind is there already (unless ``force``), the folder
            cannot be written, or a host is none.
    """
    own, server = Pair.of(folder, AUTHORITY), Pair.of(folder, SERVER)
    alternatives = _alternatives(hosts)
    if not force:
        _check_absent(own, server)
    authority = _self_signed(max(AUTHORITY_DAYS, days), now)
    issued = authority.issue(SERVER, alternatives, _usages(for_servers=True), days=days, now=now)
    # Keys before what is of no use without them, and the authority before what it signs.
    _write(folder, {**authority.files(own), **issued.files(server)}, force=force)
    return own, server


def issue(
    folder: Path,
    name: str,
    hosts: Sequence[str],
    *,
    days: int,
    now: datetime,
    for_clients_alone: bool = False,
    force: bool = False,
) -> Pair:
    """A certificate of the authority in ``folder``, for a machine, or for a client alone.

    Args:
        folder: where ``make_authority`` left the authority; the certificate goes there, too.
        name: who holds it, which is also its file's name.
        hosts: what a machine is called by; unless said, what the certificate that is replaced
            says, else its ``name``.
        days: how long it is good for.
        now: when it is made.
        for_clients_alone: no server can be known by it.
        force: take the place of one that is there.

    Raises:
        CertificateNotMade: as ``make_authority``, or there is no authority, or it does not last
            that long.
    """
    if not _NAME.fullmatch(name) or name == AUTHORITY or name.endswith("-key"):
        raise CertificateNotMade(
            f"{name!a} cannot name a certificate: use up to 64 letters, digits, '.', '_' and '-', "
            f"and neither {AUTHORITY!r} nor an end in '-key'"
        )
    pair = Pair.of(folder, name)
    if not force:
        _check_absent(pair)
    authority = _load(Pair.of(folder, AUTHORITY))
    alternatives: Sequence[x509.GeneralName] = ()
    if not for_clients_alone:
        alternatives = _alternatives(hosts) or _present_alternatives(pair) or _alternatives([name])
    usages = _usages(for_servers=not for_clients_alone)
    issued = authority.issue(name, alternatives, usages, days=days, now=now)
    _write(folder, issued.files(pair), force=force)
    return pair


@attrs.frozen
class _Holder:
    """A certificate with its key, in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def files(self, pair: Pair) -> Mapping[Path, tuple[bytes, int]]:
        """Content and mode of each file, the key first."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = self.certificate.public_bytes(serialization.Encoding.PEM)
        return {pair.key: (key, 0o600), pair.certificate: (certificate, 0o644)}

    def issue(
        self,
        name: str,
        alternatives: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        *,
        days: int,
        now: datetime,
    ) -> "_Holder":
        """A certificate that this authority signs. Raises CertificateNotMade."""
        ends = now + timedelta(days=days)
        if ends > self.certificate.not_valid_after_utc:
            raise CertificateNotMade(
                f"the authority ends on {self.certificate.not_valid_after_utc:%Y-%m-%d}, and what "
                f"it signs cannot outlast it: ask for fewer --days than {days}"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        ours = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        builder = (
            _begun(_named(name), self.certificate.subject, key, now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ours.value),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return _Holder(builder.sign(self.key, hashes.SHA256()), key)


def _self_signed(days: int, now: datetime) -> _Holder:
    key = ec.generate_private_key(ec.SECP256R1())
    # A number of its own: two authorities of one name would be taken for each other.
    name = _named(f"HiveMind pool {os.urandom(4).hex()}")
    builder = (
        _begun(name, name, key, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return _Holder(builder.sign(key, hashes.SHA256()), key)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


def _usages(*, for_servers: bool) -> Sequence[x509.ObjectIdentifier]:
    """A machine's certificate is good for both: a master calls workers, and is called by them."""
    both = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.SERVER_AUTH, *both] if for_servers else both


def _alternatives(hosts: Sequence[str]) -> list[x509.GeneralName]:
    return [_alternative(host) for host in dict.fromkeys(hosts)]


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise CertificateNotMade(
            f"{host!a} is neither an address nor the name of a host in ASCII, such as "
            "pool.example or 192.0.2.1"
        )
    return x509.DNSName(host)


def _present_alternatives(pair: Pair) -> Sequence[x509.GeneralName]:
    """What the certificate that is there is for; empty where there is none, or none to be read."""
    try:
        old = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return ()
    return list(names.value)


def _load(pair: Pair) -> _Holder:
    """The authority. Raises CertificateNotMade."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise CertificateNotMade(
            f"{error.filename} is not there: make an authority with `hivemind tls init`, or name "
            "its folder with --dir"
        ) from error
    except OSError as error:
        raise CertificateNotMade(f"{error.filename} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise CertificateNotMade(
            f"{pair.certificate} or {pair.key} is damaged or encrypted: bring both back from a "
            "backup"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise CertificateNotMade(f"{pair.key} is not the key of {pair.certificate}")
    return _Holder(certificate, key)


def _check_absent(*pairs: Pair) -> None:
    for pair in pairs:
        for path in (pair.key, pair.certificate):
            if path.exists() or path.is_symlink():
                raise CertificateNotMade(f"{path} is there already: --force replaces it")


def _write(folder: Path, files: Mapping[Path, tuple[bytes, int]], *, force: bool) -> None:
    """Each file whole or not at all, in that order. Raises CertificateNotMade."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, (content, mode) in files.items():
            _place(path, content, mode, force=force)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except FileExistsError as error:
        if not folder.is_dir():
            raise CertificateNotMade(f"{folder} is no folder: name another") from error
        raise CertificateNotMade(
            f"{error.filename2 or error.filename} is there already: --force replaces it"
        ) from error
    except OSError as error:
        raise CertificateNotMade(f"{folder} cannot be written: {error.strerror}") from error


def _place(path: Path, content: bytes, mode: int, *, force: bool) -> None:
    # mkstemp's files are 0600, so that a key is never there for others to read.
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        if force:
            Path(new).replace(path)
        else:
            # Unlike a rename, a link never takes another file's place.
            path.hardlink_to(new)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(new).unlink()
