"""Ports for servers that start later."""

import socket

from memserve.serving.prepare import LOOPBACK, free_ports


def test_a_port_for_a_server_is_none_that_the_host_gives_to_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_port_that_somebody_listens_on_is_not_given() -> None:
    with socket.create_server((LOOPBACK, free_ports(1)[0])) as taken:
        assert taken.getsockname()[1] not in free_ports(5_000)
