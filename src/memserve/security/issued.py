"""Certificates that a process issues to itself: the cluster's CA is derived from its secret, so all agree on it.

Who can issue one knows the secret. Each context and each instance's server gets a key pair of its own, which is
never on disk and goes with the processes that have it. Certificates do not expire: hosts' clocks do not matter, and
a new secret ends them all.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from memserve.security.secret import ClusterSecret, Purpose

_FROM, _UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
_CA_NAME = "memserve cluster"
_MEMBER_NAME = "memserve member"


def use_issued(context: ssl.SSLContext, secret: ClusterSecret) -> None:
    """Have the context show a new certificate of the cluster's CA, and trust no other CA."""
    with issued_file(secret) as fd:
        path = f"/proc/self/fd/{fd}"
        context.load_cert_chain(path)
        context.load_verify_locations(path)


@contextmanager
def issued_file(secret: ClusterSecret) -> Iterator[int]:
    """Descriptor of a new key, its certificate and that of the CA, as PEM: memory without a name, for the block.

    Servers take files only: who inherits the descriptor reads it as /proc/self/fd/NUMBER.
    """
    authority = Ed25519PrivateKey.from_private_bytes(secret.derive(Purpose.TLS_AUTHORITY))
    own = Ed25519PrivateKey.generate()
    ca = _certificate(_CA_NAME, key=authority, authority=authority)
    member = _certificate(_MEMBER_NAME, key=own, authority=authority)
    private = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fd = os.memfd_create("memserve-tls", os.MFD_CLOEXEC)
    try:
        os.pwrite(fd, private + member.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM), 0)
        yield fd
    finally:
        os.close(fd)


def _certificate(name: str, *, key: Ed25519PrivateKey, authority: Ed25519PrivateKey) -> x509.Certificate:
    is_ca = key is authority
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(_CA_NAME))
        .public_key(key.public_key())
        .serial_number(1 if is_ca else x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, None)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
