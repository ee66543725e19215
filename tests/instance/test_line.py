"""Transfers between pools of one host take a line where one leads, and arrive as well where none does."""

import os
from collections.abc import Callable

import msgspec
import pytest

from memserve.core.enums import Tier
from memserve.core.errors import NotIntroduced
from memserve.core.ids import TransferId
from memserve.instance.mempool import MemPool
from memserve.rpc.line import MAX_LINE_BYTES, LineClient, line_name
from memserve.transport.verified_copy import checksum
from memserve.wire.messages import BlockList, PeerInfo, PeerMessage, TransferRequest
from tests.instance.conftest import BLOCK_BYTES, MakePool

DEADLINE_S = 30.0


@pytest.fixture
def far(make_pool: MakePool) -> MemPool:
    return make_pool("far")


def filled(pool: MemPool) -> tuple[BlockList, bytes]:
    addresses, data = pool.alloc_mem(3), os.urandom(3 * BLOCK_BYTES)
    pool.write(addresses, data)
    return addresses, data


def request_of(pool: MemPool, source: BlockList) -> TransferRequest:
    return TransferRequest(
        transfer=TransferId("by-hand"),
        source=source,
        tier=Tier.DRAM,
        checksums=tuple(checksum(pool.view(block)) for block in source.blocks),
    )


def nowhere(peer: PeerInfo) -> PeerInfo:
    assert peer.arena is not None
    return msgspec.structs.replace(peer, arena=msgspec.structs.replace(peer.arena, path=f"{peer.arena.path}-none"))


@pytest.mark.parametrize(
    ("as_seen", "private"),
    [
        (lambda peer: peer, b"a note"),
        (lambda peer: peer, os.urandom(MAX_LINE_BYTES)),
        (nowhere, b""),
    ],
    ids=["by the line", "too long for a line", "where no line leads"],
)
def test_a_transfer_arrives_however_it_is_asked_for(
    a: MemPool, far: MemPool, as_seen: Callable[[PeerInfo], PeerInfo], private: bytes
) -> None:
    source, data = filled(a)
    sent = a.transfer(as_seen(a.connect(far.info.endpoint)), source, private=private)
    received = far.take_received(deadline_s=DEADLINE_S)
    assert received is not None
    assert (far.read(sent), received.private) == (data, private)
    assert a.num_control_calls(far.info) == 1


def test_who_has_not_said_hello_moves_nothing_by_a_line_and_is_introduced_by_its_pool(a: MemPool, far: MemPool) -> None:
    source, data = filled(a)
    assert far.info.arena is not None
    stranger = LineClient(PeerMessage)
    with pytest.raises(NotIntroduced):
        stranger.call(line_name(far.info.arena), request_of(a, source), deadline_s=DEADLINE_S)
    assert far.read(a.transfer(far.info, source)) == data
    stranger.close()


def test_a_transfer_that_is_repeated_by_the_line_is_not_made_again(a: MemPool, far: MemPool) -> None:
    source, _ = filled(a)
    a.connect(far.info.endpoint)
    assert far.info.arena is not None
    line, request = LineClient(PeerMessage), request_of(a, source)
    replies = {line.call(line_name(far.info.arena), request, deadline_s=DEADLINE_S) for _ in range(3)}
    assert len(replies) == 1
    assert sum(tier.num_reserved for tier in far.stats().tiers) == len(source.blocks)
    line.close()
