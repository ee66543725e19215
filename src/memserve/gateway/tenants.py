"""Whose request it is: by its API key, with a share of the cluster and, if asked for, a cache of its own.

Owns the keys, as digests, and the salts. Without configured tenants everybody is the one tenant that there is, no
key is asked for, and a client's own cache_salt is used as it came. With tenants the salt is made here, from the
tenant and from what the client sent, so that nobody can name another one's (CVE-2025-46570 is what that prevents).
"""

import hashlib
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.datastructures import Headers

from memserve.config import TenantSettings
from memserve.gateway import request_body
from memserve.gateway.errors import ApiError
from memserve.gateway.request_body import ClientRequest

_BEARER = "bearer "


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    weight: float = 1.0
    isolated: bool = False
    """Nobody else's requests find what this tenant's have computed."""

    def salt(self, sent: str) -> str:
        """In place of the client's cache_salt; "" for the cache that all share."""
        if not self.isolated and not sent:
            return ""
        owner = f"tenant {self.name}" if self.isolated else "shared"
        return hashlib.blake2b(msgspec.msgpack.encode((owner, sent)), digest_size=16).hexdigest()


EVERYBODY = Tenant(name="everybody")


class Tenants:
    """The configured ones, looked up by key."""

    def __init__(self, settings: Sequence[TenantSettings]) -> None:
        self._by_key = {
            _digest(each.api_key): Tenant(name=each.name, weight=each.weight, isolated=each.isolated)
            for each in settings
        }

    @property
    def are_known(self) -> bool:
        """Whether requests need a key, and salts are made here."""
        return bool(self._by_key)

    @property
    def all(self) -> list[Tenant]:
        return list(self._by_key.values()) or [EVERYBODY]

    def of(self, headers: Headers) -> Tenant:
        """Raises ApiError 401 without a key that is known."""
        if not self._by_key:
            return EVERYBODY
        sent = headers.get("authorization", "")
        key = sent[len(_BEARER) :].strip() if sent.lower().startswith(_BEARER) else ""
        tenant = self._by_key.get(_digest(key))
        if tenant is None:
            raise ApiError(
                "no such API key: send `Authorization: Bearer KEY` with one that the operator gave you",
                status=HTTPStatus.UNAUTHORIZED,
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return tenant

    def salted(self, request: ClientRequest, tenant: Tenant) -> ClientRequest:
        """With the salt that counts. A salt of a wrong kind goes on to vLLM, which refuses it."""
        sent = request.values.get("cache_salt")
        if not self.are_known or not (sent is None or (isinstance(sent, str) and sent)):
            return request
        salt = tenant.salt(sent or "")
        return request.with_text("cache_salt", salt) if salt else request

    def salted_body(self, body: bytes, tenant: Tenant) -> bytes:
        """The same for JSON that is sent on unread otherwise; what is no object goes on as it is."""
        if not self.are_known or not body.lstrip().startswith(b"{"):
            return body
        request = request_body.parse(body)
        salted = self.salted(request, tenant)
        return body if salted is request else msgspec.json.encode(salted.fields)

    def __repr__(self) -> str:
        return f"Tenants({', '.join(tenant.name for tenant in self.all)})"


def _digest(key: str) -> bytes:
    """Compared in place of the key: how long it takes tells nothing about it."""
    return hashlib.blake2b(key.encode(), digest_size=32).digest()
