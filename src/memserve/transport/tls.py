"""TLS of data connections: both ends show a certificate, and both check the other's against one CA.

The CA is the cluster's own: who holds a certificate of it belongs to the cluster, under whatever name. It comes
from the operator's files, or from the cluster's secret (security/issued.py); files go before the secret.
"""

import ssl

from memserve.config import Network
from memserve.core.errors import ConfigError
from memserve.security.secret import ClusterSecret
from memserve.security.tls_files import TlsFiles


def server_context(network: Network) -> ssl.SSLContext | None:
    """None for plain connections. Raises ConfigError when a file cannot be read or is none of its kind."""
    if not network.seals_data:
        return None
    context = _with_credentials(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), network.tls, network.secret)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # nothing comes on an idle connection that nobody asked for
    return context


def client_context(network: Network) -> ssl.SSLContext | None:
    """None for plain connections. Raises ConfigError when a file cannot be read or is none of its kind."""
    if not network.seals_data:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _with_credentials(context, network.tls, network.secret)


def _with_credentials(context: ssl.SSLContext, files: TlsFiles, secret: ClusterSecret | None) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files.is_on or secret is None:
        return _with_files(context, files)
    from memserve.security.issued import use_issued  # noqa: PLC0415 - X.509 is loaded where there is a secret only

    use_issued(context, secret)
    return context


def _with_files(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.ca)
    except OSError as error:
        raise ConfigError(
            f'tls: certificate "{files.certificate}", key "{files.key}" or CA "{files.ca}" cannot be used: {error}; '
            "give PEM files, the key without a passphrase"
        ) from error
    return context
