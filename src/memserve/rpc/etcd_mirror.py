"""A copy of all keys of etcd that begin alike, kept up by a watch.

Owns the copy and the watch. After any break it lists everything anew and tells the difference: what was compacted
away, an etcd that was restarted, a watch that was lost make no difference. While etcd is away the copy stays.

    run: list -> watch -> (broken, quiet, compacted) -> list -> ...
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec

from memserve.core.errors import RegistryUnavailable
from memserve.rpc.etcd import Entry, EtcdClient, Listing

R = TypeVar("R")

_RETRY_S = 0.5
_QUIET_S = 10.0
_log = logging.getLogger(__name__)


class EtcdMirror:
    """Keys are told without the prefix."""

    def __init__(
        self, client: EtcdClient, prefix: str, *, on_change: Callable[[tuple[Entry, ...]], None], folder: str = ""
    ) -> None:
        """Of all keys that begin with `prefix`, or of those that go on with `folder`.

        `on_change` hears what was put and deleted, in order, and must not block; at first all there is.
        """
        self._client = client
        self._prefix = prefix
        self._watched = f"{prefix}{folder}"
        self._on_change = on_change
        self._entries: dict[str, Entry] = {}
        self._listed = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def is_in_step(self) -> bool:
        """It has all that etcd had a moment ago, as far as can be told."""
        return self._listed.is_set()

    def find(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def revision_of(self, key: str) -> int:
        """0 when it is not there: as EtcdClient.transact compares."""
        found = self._entries.get(key)
        return found.mod_revision if found is not None else 0

    def under(self, folder: str) -> tuple[Entry, ...]:
        """All whose key begins so, in the order in which they were created."""
        found = [entry for key, entry in self._entries.items() if key.startswith(folder)]
        return tuple(sorted(found, key=lambda entry: entry.create_revision))

    async def wait_listed(self) -> None:
        """Until everything is here."""
        await self._listed.wait()

    async def wait_change(self) -> None:
        """Until something is told."""
        await self._changed.wait()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                listing = await self._client.list(self._watched)
                self._take(self._difference(listing))
                self._listed.set()
                async for entries in self._client.watch(self._watched, after=listing.revision, quiet_s=_QUIET_S):
                    self._take(tuple(self._local(entry) for entry in entries))
            except RegistryUnavailable as error:
                self._listed.clear()
                _log.debug("the copy of %s stands still: %s", self._watched, error)
                await asyncio.sleep(_RETRY_S)

    def _difference(self, listing: Listing) -> tuple[Entry, ...]:
        """What has to be told so that who knows the copy knows the listing."""
        there = {entry.key: entry for entry in map(self._local, listing.entries)}
        gone = [Entry(key=key, value=None, mod_revision=listing.revision) for key in self._entries if key not in there]
        new = [e for key, e in there.items() if self.revision_of(key) != e.mod_revision]
        return (*gone, *new)

    def _take(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.value is None:
                self._entries.pop(entry.key, None)
            else:
                self._entries[entry.key] = entry
        if entries:
            self._on_change(entries)
            self._changed.set()
            self._changed = asyncio.Event()

    def _local(self, entry: Entry) -> Entry:
        return Entry(
            key=entry.key.removeprefix(self._prefix),
            value=entry.value,
            mod_revision=entry.mod_revision,
            create_revision=entry.create_revision,
            lease=entry.lease,
        )

    def __repr__(self) -> str:
        return f"EtcdMirror({self._watched}, {len(self._entries)} keys{'' if self.is_in_step else ', out of step'})"


def read_record(entry: Entry | None, shape: type[R]) -> R | None:
    """None for what is not there, and for what another version or somebody else wrote: that is logged."""
    if entry is None or entry.value is None:
        return None
    try:
        return msgspec.json.decode(entry.value, type=shape)
    except msgspec.MsgspecError as error:
        _log.warning("what etcd has as %s cannot be read, and is left out: %s", entry.key, error)
        return None
