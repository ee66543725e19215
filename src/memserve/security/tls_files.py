"""An operator's own certificates for data connections; read by transport/tls.py."""

import msgspec


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files of TLS on data connections: all three, or none for plain ones or the cluster secret's."""

    certificate: str = ""
    key: str = ""
    """Without a passphrase."""
    ca: str = ""
    """Whose certificates are trusted; the cluster's own."""

    @property
    def is_on(self) -> bool:
        return bool(self.certificate or self.key or self.ca)


NO_TLS = TlsFiles()
