"""Certificates and keys of a deployment, as files: a certificate authority, the server's certificate, nodes' keys."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pffdst.core.errors import UserError

__all__ = ["Certificates", "make_certificates", "make_node_key"]

_DAYS: Final = 825
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@final
class Certificates:
    """The files of a folder: `ca` goes to every node, `certificate` and `key` stay with the server."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = (folder / name for name in ("ca.pem", "server.pem", "server.key"))


def make_certificates(folder: Path, hosts: Sequence[str]) -> Certificates:
    """A new authority and the certificate of a server that is reached at `hosts`: names and addresses.

    The authority's own key is not kept: for another certificate, create a new authority.

    Raises:
        UserError: a host is neither a DNS name nor an address; nothing is written.
    """
    names = [_host(host) for host in hosts]
    authority, own = _key(), _key()
    issuer = _name("pffdst authority")
    ca = _certificate(issuer, issuer, authority, authority, authority=True, hosts=())
    server = _certificate(_name("pffdst server"), issuer, own, authority, authority=False, hosts=names)
    files = Certificates(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    _write_private(
        files.key,
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return files


def make_node_key(path: Path) -> Path:
    """Creates a node's key pair: the private key at `path`, the public one at `path`.pub, which is returned."""
    key = _key()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    public = path.with_name(path.name + ".pub")
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"
    )
    return public


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
    hosts: Sequence[x509.GeneralName],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts:
        made = made.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return made.sign(signer, hashes.SHA256())


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _DNS.fullmatch(host) or len(host) > 253:
            raise UserError(
                f"--host {host!r}: expected a DNS name or an address without scheme and port, as server.example"
            ) from None
        return x509.DNSName(host)


def _write_private(path: Path, content: bytes) -> None:
    """Writes a file that no other user can read, from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
