"""HTTP over TLS: the certificate that the gateway shows its clients, and how instances and etcd are talked to."""

import ssl
from pathlib import Path

import aiohttp
import msgspec

from memserve.core.errors import ConfigError
from memserve.security.secret import ClusterSecret


def reason_of(error: Exception) -> str:
    """Why an HTTP question failed, without the SSL context that aiohttp puts into the text."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error)
    return str(error) or type(error).__name__


class ServerCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files that can be used; made by `server_certificate`."""

    certfile: str
    keyfile: str


def server_certificate(certfile: str, keyfile: str) -> ServerCertificate | None:
    """None for "" and "". Raises ConfigError when the files make no certificate."""
    if not certfile and not keyfile:
        return None
    if not certfile:
        raise ConfigError(f"--ssl-keyfile {keyfile}: give its certificate, too, with --ssl-certfile FILE")
    certfile, keyfile = (str(Path(file or certfile).expanduser()) for file in (certfile, keyfile))
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certfile, keyfile, password="")
    except OSError as error:
        raise ConfigError(
            f'--ssl-certfile "{certfile}" --ssl-keyfile "{keyfile}" cannot be used ({error.strerror or error}): give '
            "PEM files of a certificate, with those that lead to its CA, and of its key without a passphrase"
        ) from error
    return ServerCertificate(certfile=certfile, keyfile=keyfile)


def towards_etcd(*, ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Trusting this CA, "" what the system trusts, and showing this certificate, "" none. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key or None, password="")
    except OSError as error:
        raise ConfigError(
            f"TLS to etcd: ca={ca} cert={cert} key={key} cannot be used ({error.strerror or error}): give PEM files, "
            "the key without a passphrase"
        ) from error
    return context


def towards_instances(secret: ClusterSecret | None) -> ssl.SSLContext | bool:
    """As aiohttp takes it: with a secret TLS 1.3, both ends with a certificate of the cluster.

    Who has one is a member, whatever its host is called.
    """
    if secret is None:
        return True
    from memserve.security.issued import use_issued  # noqa: PLC0415 - X.509 is loaded where there is a secret only

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    use_issued(context, secret)
    return context
