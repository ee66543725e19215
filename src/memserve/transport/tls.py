"""TLS of data connections: both ends show a certificate, and both check the other's against one CA.

The CA is the cluster's own: who holds a certificate of it belongs to the cluster, under whatever name.
"""

import ssl

from memserve.config import TlsFiles
from memserve.core.errors import ConfigError


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises ConfigError when a file cannot be read or is none of its kind."""
    context = _with_files(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # nothing comes on an idle connection that nobody asked for
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises ConfigError when a file cannot be read or is none of its kind."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _with_files(context, files)


def _with_files(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.ca)
    except OSError as error:
        raise ConfigError(
            f'tls: certificate "{files.certificate}", key "{files.key}" or CA "{files.ca}" cannot be used: {error}; '
            "give PEM files, the key without a passphrase"
        ) from error
    return context
