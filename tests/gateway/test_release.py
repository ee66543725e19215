"""Releases reach a real agent's socket; one that cannot be told holds nobody up."""

from memserve.core.enums import Role
from memserve.core.ids import RequestId
from memserve.gateway.release import ReleaseDesk, RpcReleases
from memserve.rpc.channel import RpcServer
from memserve.wire.messages import AckReply, PeerMessage
from tests.gateway.rig import NotedReleases, ScriptedCluster


async def test_a_release_reaches_the_agent() -> None:
    told: list[PeerMessage] = []

    async def handle(message: PeerMessage, _: bytes) -> PeerMessage:
        told.append(message)
        return AckReply()

    server: RpcServer[PeerMessage] = RpcServer("127.0.0.1", handle, PeerMessage)
    await server.start()
    releases = RpcReleases()
    for name in ("one", "two"):
        await releases.release(endpoint=server.endpoint, request=RequestId(name), deadline_s=5)
    await releases.close()
    await server.close()
    assert [m.request for m in told] == ["one", "two"]


async def test_a_desk_waits_for_what_is_under_way_and_survives_faults() -> None:
    cluster = ScriptedCluster()
    cluster.add("d0", Role.DECODE, "")
    client = NotedReleases()
    client.reachable = False
    desk = ReleaseDesk(client)
    desk.release_soon(cluster.view.instances[0], RequestId("r"))
    await desk.close()
    assert client.released == [("tcp://d0", "r")]
