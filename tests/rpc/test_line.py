"""Calls between two threads, or processes, of one host without an event loop."""

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from memserve.core.errors import (
    DeadlineExceeded,
    InstanceUnavailable,
    LineUnavailable,
    PoolExhausted,
    ProtocolError,
)
from memserve.core.ids import BlockId
from memserve.rpc.faults import to_reply
from memserve.rpc.line import MAX_LINE_BYTES, LineClient, LineServer
from memserve.wire.codec import Codec
from memserve.wire.messages import AckReply, FreeRequest, PeerMessage

Answer = Callable[[object], object]
ASKED = FreeRequest(blocks=(BlockId(7),))


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    servers: list[LineServer] = []

    def start(answer: Answer, *, max_connections: int = 8) -> str:
        server = LineServer(answer, PeerMessage, max_connections=max_connections)
        servers.append(server)
        name = f"memserve-test-{os.getpid()}-{request.node.name}"
        server.start(name)
        return name

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def client() -> Iterator[LineClient]:
    made = LineClient(PeerMessage)
    yield made
    made.close()


def test_a_call_is_answered_and_the_next_one_takes_the_same_connection(
    serve: Callable[..., str], client: LineClient
) -> None:
    name = serve(lambda message: message, max_connections=1)
    assert [client.call(name, ASKED, deadline_s=5) for _ in range(3)] == [ASKED] * 3


def test_what_the_server_raises_is_raised_at_the_caller(serve: Callable[..., str], client: LineClient) -> None:
    def refuse(_: object) -> object:
        raise PoolExhausted("full")

    with pytest.raises(PoolExhausted, match="full"):
        client.call(serve(refuse), ASKED, deadline_s=5)


def test_who_asks_where_nobody_listens_has_asked_nothing(client: LineClient) -> None:
    with pytest.raises(LineUnavailable, match="nobody"):
        client.call("memserve-test-nobody", ASKED, deadline_s=5)


def test_what_is_too_long_for_a_line_is_not_sent(serve: Callable[..., str], client: LineClient) -> None:
    seen: list[object] = []
    name = serve(lambda message: seen.append(message) or AckReply())
    with pytest.raises(LineUnavailable, match=str(MAX_LINE_BYTES)):
        client.call(name, FreeRequest(blocks=tuple(map(BlockId, range(MAX_LINE_BYTES)))), deadline_s=5)
    assert client.call(name, ASKED, deadline_s=5) == AckReply()
    assert seen == [ASKED]


def test_one_connection_too_many_is_sent_away_and_the_first_goes_on(serve: Callable[..., str]) -> None:
    name = serve(lambda message: message, max_connections=1)
    first, second = LineClient(PeerMessage), LineClient(PeerMessage)
    assert first.call(name, ASKED, deadline_s=5) == ASKED
    with pytest.raises(LineUnavailable):
        second.call(name, ASKED, deadline_s=5)
    assert first.call(name, ASKED, deadline_s=5) == ASKED
    first.close()
    second.close()


def test_a_refusal_is_read_though_the_line_was_closed_with_the_question_unread(client: LineClient) -> None:
    name = f"memserve-test-{os.getpid()}-refusal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen()

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1, socket.MSG_PEEK)
            connection.send(Codec(PeerMessage, MAX_LINE_BYTES).encode(to_reply(LineUnavailable("full"))))
            connection.close()

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(LineUnavailable, match="full"):
            client.call(name, ASKED, deadline_s=5)
        refusing.join()


def test_a_packet_that_is_no_message_is_refused_and_the_connection_lives_on(serve: Callable[..., str]) -> None:
    name = serve(lambda message: message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(f"\0{name}")
        for packet in (b"\xc1garbage", b"\x00" * 1000):
            stranger.send(packet)
            assert ProtocolError.__name__.encode() in stranger.recv(MAX_LINE_BYTES)


def test_a_late_answer_reaches_nobody(serve: Callable[..., str], client: LineClient) -> None:
    may_answer, answers = threading.Event(), iter((AckReply(), ASKED))

    def answer(_: object) -> object:
        mine = next(answers)
        may_answer.wait(30)
        return mine

    name = serve(answer)
    with pytest.raises(DeadlineExceeded):
        client.call(name, ASKED, deadline_s=0.01)
    may_answer.set()
    assert client.call(name, ASKED, deadline_s=30) == ASKED


def test_a_server_that_closes_fails_who_waits_for_it(client: LineClient) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def answer(_: object) -> object:
        asked.set()
        may_answer.wait(30)
        return AckReply()

    server = LineServer(answer, PeerMessage)
    name = f"memserve-test-closing-{os.getpid()}"
    server.start(name)
    failed: list[Exception] = []

    def call() -> None:
        try:
            client.call(name, ASKED, deadline_s=30)
        except InstanceUnavailable as error:
            failed.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    asked.wait(30)
    closing = threading.Thread(target=server.close)
    closing.start()
    caller.join()
    may_answer.set()
    closing.join()
    assert len(failed) == 1
