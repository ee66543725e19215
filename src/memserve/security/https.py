"""Whom an HTTP client of memserve trusts, and what it shows: as an SSL context, or True for what the system trusts."""

import ssl

from memserve.security.secret import ClusterSecret


def towards_instances(secret: ClusterSecret | None) -> ssl.SSLContext | bool:
    """With a secret TLS 1.3, both ends with a certificate of the cluster; whatever host it is on, it is a member."""
    if secret is None:
        return True
    from memserve.security.issued import use_issued  # noqa: PLC0415 - X.509 is loaded where there is a secret only

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    use_issued(context, secret)
    return context
