"""TLS on data connections: who is let in, what goes over, and what a broken setting says."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from memserve.config import Network
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.security.secret import ClusterSecret
from memserve.security.tls_files import TlsFiles
from memserve.transport.base import Offer
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from tests.transport.certificates import made_tls
from tests.transport.conftest import MakeProxy
from tests.transport.parts import LIMITS, TRANSFER, Side, parts_for
from tests.transport.proxy import Direction, Fault, Kind

N = 5


def client(tls: TlsFiles) -> TcpTransport:
    return TcpTransport(clock=SystemClock(), limits=LIMITS, network=Network(tls=tls))


def fetch_from(endpoint: str, transport: TcpTransport, sender: Side, receiver: Side) -> bool:
    """Whether the blocks arrived."""
    blocks, targets = sender.fill(1), receiver.fill(1)
    peer = msgspec.structs.replace(sender.info, data=endpoint)
    with sender.offer(blocks) as ticket:
        transport.fetch(Offer(peer=peer, transfer=TRANSFER, ticket=ticket), receiver.copies_of(sender, blocks, targets))
    return receiver.read(targets) == sender.read(blocks)


def test_blocks_are_written_over_tls_and_verified(sender: Side, receiver: Side, tls: TlsFiles) -> None:
    server = DataServer(network=Network(tls=tls), door=receiver.door, clock=SystemClock(), limits=LIMITS)
    data = sender.read(sender.fill(N))
    room, blocks = receiver.reserve(N, endpoint=server.start())
    transport = client(tls)
    transport.write(room, parts_for(blocks, data))
    receiver.commit(N)
    assert receiver.read(blocks) == data
    transport.close()
    server.close()


def test_a_bit_that_flips_under_tls_ends_the_connection(
    sender: Side, receiver: Side, tls: TlsFiles, tls_server: DataServer, make_proxy: MakeProxy
) -> None:
    target = tls_server.start().replace("tls:", "tcp:")
    for after in (0, 2000, 20_000):
        proxy = make_proxy(target, Fault(Kind.FLIP, Direction.TO_CLIENT, after))
        transport = client(tls)
        with pytest.raises(InstanceUnavailable):
            fetch_from(proxy.endpoint.replace("tcp:", "tls:"), transport, sender, receiver)
        transport.close()


def test_a_certificate_of_another_ca_is_not_let_in(
    sender: Side, receiver: Side, tls_server: DataServer, tls: TlsFiles, tmp_path: Path
) -> None:
    endpoint = tls_server.start()
    stranger = msgspec.structs.replace(made_tls(tmp_path), ca=tls.ca)  # it trusts the server, not the other way round
    transport = client(stranger)
    with pytest.raises(InstanceUnavailable):
        fetch_from(endpoint, transport, sender, receiver)
    transport.close()


def test_a_server_of_another_ca_is_not_trusted(
    sender: Side, receiver: Side, tls_server: DataServer, tmp_path: Path
) -> None:
    transport = client(made_tls(tmp_path))
    with pytest.raises(InstanceUnavailable, match="certificate verify failed"):
        fetch_from(tls_server.start(), transport, sender, receiver)
    transport.close()


def test_plain_and_encrypted_do_not_mix(sender: Side, tcp: TcpTransport, tls: TlsFiles) -> None:
    encrypted = client(tls)
    assert not encrypted.reaches(sender.info)
    assert not tcp.reaches(msgspec.structs.replace(sender.info, data="tls://127.0.0.1:1"))
    encrypted.close()


def test_a_plain_visitor_of_an_encrypted_server_is_cut_off(tls_server: DataServer) -> None:
    host, port = tls_server.start().removeprefix("tls://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as visitor:
        visitor.sendall(b"msd1" + bytes(100))
        with contextlib.suppress(ConnectionResetError):
            while visitor.recv(100):
                pass


@pytest.mark.parametrize("field", ["certificate", "key", "ca"])
def test_a_file_that_is_missing_is_named(tls: TlsFiles, field: str) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        client(msgspec.structs.replace(tls, **{field: "nowhere.pem"}))


def test_a_network_that_cannot_be_connected_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="set advertise"):
        Network(bind="0.0.0.0").check()
    with pytest.raises(ConfigError, match="--cluster-secret"):
        Network(bind="10.0.0.7").check()
    with pytest.raises(ConfigError, match="all three"):
        Network(tls=TlsFiles(ca="ca.pem")).check()
    assert Network(bind="0.0.0.0", advertise="10.0.0.7").host == "10.0.0.7"
    assert Network(bind="::1").host == "[::1]"


OURS, THEIRS = (Network(secret=ClusterSecret(text * 32)) for text in (b"o", b"t"))


@pytest.fixture
def sealed_server(sender: Side) -> Iterator[DataServer]:
    many = msgspec.structs.replace(LIMITS, max_connections=64)
    server = DataServer(network=OURS, door=sender.door, clock=SystemClock(), limits=many)
    yield server
    server.close()


def sealed(network: Network) -> TcpTransport:
    return TcpTransport(clock=SystemClock(), limits=LIMITS, network=network)


def test_who_knows_the_secret_needs_no_certificates(sender: Side, receiver: Side, sealed_server: DataServer) -> None:
    transport = sealed(OURS)
    assert fetch_from(sealed_server.start(), transport, sender, receiver)
    transport.close()


@pytest.mark.parametrize("network", [THEIRS, Network()], ids=["another secret", "none"])
def test_who_does_not_know_the_secret_gets_no_block(
    sender: Side, receiver: Side, sealed_server: DataServer, network: Network
) -> None:
    endpoint = sealed_server.start()
    transport = sealed(network)
    with pytest.raises(InstanceUnavailable):
        fetch_from(endpoint if network.secret else endpoint.replace("tls:", "tcp:"), transport, sender, receiver)
    transport.close()
    honest = sealed(OURS)
    assert fetch_from(endpoint, honest, sender, receiver)
    honest.close()
    stats = sealed_server.stats()
    assert (stats.num_frames, stats.num_malformed) == (1, 0)
    assert stats.num_strangers >= 1


def test_random_bytes_reach_no_block_and_hold_up_nobody(
    sender: Side, receiver: Side, sealed_server: DataServer
) -> None:
    endpoint = sealed_server.start()
    host, _, port = endpoint.removeprefix("tls://").rpartition(":")
    honest = sealed(OURS)
    before = psutil.Process().memory_info().rss
    for number in range(40):
        with socket.create_connection((host, int(port))) as stranger, contextlib.suppress(OSError):
            stranger.sendall((b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"") + os.urandom(1 << 16))
    assert fetch_from(endpoint, honest, sender, receiver)
    honest.close()
    assert sealed_server.stats().num_frames == 1
    assert psutil.Process().memory_info().rss - before < 64 << 20
