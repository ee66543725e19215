"""A sender's and a receiver's side, and a check that their connections and threads end."""

from collections.abc import Callable, Iterator

import pytest

from memserve.config import Network
from memserve.core.clock import SystemClock
from memserve.security.tls_files import TlsFiles
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from tests.transport.certificates import made_tls
from tests.transport.parts import IMPATIENT, LIMITS, Side
from tests.transport.proxy import Fault, FaultyProxy

MakeProxy = Callable[[str, Fault], FaultyProxy]


@pytest.fixture
def sender() -> Iterator[Side]:
    side = Side("sender")
    yield side
    side.close()
    assert side.server.stats().num_connections == 0


@pytest.fixture
def receiver() -> Iterator[Side]:
    side = Side("receiver")
    yield side
    side.close()
    assert side.server.stats().num_connections == 0


@pytest.fixture
def tcp() -> Iterator[TcpTransport]:
    transport = TcpTransport(clock=SystemClock(), limits=LIMITS)
    yield transport
    transport.close()


@pytest.fixture
def impatient_tcp() -> Iterator[TcpTransport]:
    transport = TcpTransport(clock=SystemClock(), limits=IMPATIENT)
    yield transport
    transport.close()


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    proxies: list[FaultyProxy] = []

    def make(target: str, fault: Fault) -> FaultyProxy:
        proxies.append(FaultyProxy(target, fault))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate of a cluster's CA."""
    return made_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls_server(sender: Side, tls: TlsFiles) -> Iterator[DataServer]:
    """To the sender's blocks; starts with the test that wants it."""
    server = DataServer(network=Network(tls=tls), door=sender.door, clock=SystemClock(), limits=LIMITS)
    yield server
    server.close()
