"""What somebody needs to talk to a gateway's admin API: whom to take for it, what to show, what faults mean."""

import ssl

import aiohttp
import msgspec

from memserve.core.errors import ConfigError
from memserve.security.secret import ClusterSecret, Purpose


class GatewayAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of it is needed for a gateway without a secret whose certificate, if any, the system trusts."""

    secret: ClusterSecret | None = None
    """Of the cluster; its token is shown."""
    ca: str = ""
    """PEM file of who issued the gateway's certificate, or of that certificate itself; "" is what the system trusts."""

    def headers(self) -> dict[str, str]:
        return {} if self.secret is None else {"Authorization": f"Bearer {self.secret.token(Purpose.ADMIN_HTTP)}"}

    def trusted(self) -> ssl.SSLContext | bool:
        """As aiohttp takes it. Raises ConfigError when the file is none."""
        if not self.ca:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigError(
                f"--ca {self.ca} cannot be used ({error.strerror or error}): give a PEM file with the certificate of "
                "the CA that issued the gateway's, or that one itself"
            ) from error

    def check_trust(self, url: str, error: Exception) -> None:
        """Raise ConfigError if this fault of a question to `url` is that its certificate is not trusted."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            reason = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            raise ConfigError(
                f"the certificate of {url} is not trusted ({reason}): name the CA that issued it with --ca FILE, or "
                "in MEMSERVE_CA, and the host as the certificate has it"
            ) from error


ANY_GATEWAY = GatewayAccess()
