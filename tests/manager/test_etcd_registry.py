"""Managers that share one cluster in a real etcd, and members that are registered there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from tests.etcd_server import EtcdServer, etcd_server, free_ports, needs_etcd
from tests.fakes.launching import no_restarts

from memserve.cluster.view import ClusterView
from memserve.core.clock import SystemClock
from memserve.core.enums import Phase, Role
from memserve.core.errors import ConfigError, IdentityMismatch, InstanceUnavailable, LeaseLost, RegistryUnavailable
from memserve.core.etcd_address import EtcdAddress, parse_etcd
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.instance.etcd_link import EtcdLink, gateways_in_etcd
from memserve.manager.etcd_registry import registry_in_etcd
from memserve.manager.manager import ClusterManager
from memserve.manager.registry import ActingScaler
from memserve.rpc.channel import RpcClient
from memserve.rpc.etcd import EtcdClient
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import (
    ClusterMessage,
    DeadInstance,
    HeartbeatReply,
    HeartbeatRequest,
    JoinRequest,
    LeaveRequest,
    Load,
    MemberReply,
    MemberRequest,
    PeerInfo,
    ReportRequest,
    RequestReport,
)
from memserve.wire.roster import GATEWAYS, MEMBERS, prefix_of

pytestmark = needs_etcd
IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
A, B, C = InstanceId("decode-0"), InstanceId("decode-1"), InstanceId("decode-2")


class Member:
    """One incarnation that says what it is told to."""

    def __init__(
        self,
        url: str,
        name: InstanceId,
        incarnation: int = 1,
        identity: KvIdentity = IDENTITY,
        role: Role = Role.DECODE,
    ) -> None:
        self.link = EtcdLink(url, cluster="test")
        self.name, self.incarnation = name, Incarnation(incarnation)
        peer = PeerInfo(instance=name, incarnation=self.incarnation, endpoint="tcp://127.0.0.1:9", identity=identity)
        self.request = JoinRequest(
            cluster="test", peer=peer, role=Role.DECODE, url="", pid=1, can_play=(Role.PREFILL, Role.DECODE)
        )

    async def join(self) -> None:
        await self.link.call(self.request, deadline_s=10)

    async def beat(self, load: Load | None = None) -> HeartbeatReply:
        message = HeartbeatRequest(instance=self.name, incarnation=self.incarnation, load=load or Load())
        reply = await self.link.call(message, deadline_s=10)
        assert isinstance(reply, HeartbeatReply)
        return reply

    async def leave(self) -> None:
        await self.link.call(LeaveRequest(instance=self.name, incarnation=self.incarnation), deadline_s=10)


async def eventually(condition: Callable[[], bool]) -> None:
    """Looks again and again: another process makes it true."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def eventually_knows(member: Member, names: set[InstanceId]) -> None:
    """Its own copy of the cluster has all of them; then it beats once more."""
    async with asyncio.timeout(20):
        while {peer.instance for peer in member.link.peers()} != names:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await member.beat()


class Gateway:
    """A manager, and what it told its owner."""

    def __init__(self, url: str, *, model: str = "m", autoscales: bool = True) -> None:
        self.dead: list[DeadInstance] = []
        self.reports: list[RequestReport] = []
        self.manager = ClusterManager(
            cluster="test",
            bind="127.0.0.1",
            clock=SystemClock(),
            on_report=self.reports.append,
            on_change=self._change,
            launcher=no_restarts,
            registry=registry_in_etcd(url, model=model, autoscales=autoscales),
            dead_s=1e9,
        )

    def _change(self, _view: ClusterView, dead: tuple[DeadInstance, ...]) -> None:
        self.dead.extend(dead)

    async def until(self, expected: dict[str, str]) -> None:
        """Role and state of all members."""
        async with asyncio.timeout(20):
            while self.members() != expected:
                await self.manager.wait_change()

    def members(self) -> dict[str, str]:
        return {i.instance: f"{i.role} {i.state}" for i in self.manager.view.instances}


class Cluster:
    """Two gateways, and what is opened beside them."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.gateways: list[Gateway] = []
        self._stack = AsyncExitStack()

    async def gateway(self, *, model: str = "m", autoscales: bool = True) -> Gateway:
        gateway = Gateway(self.server.url, model=model, autoscales=autoscales)
        self._stack.push_async_callback(gateway.manager.stop)
        await gateway.manager.start()
        self.gateways.append(gateway)
        return gateway

    async def member(self, name: InstanceId, incarnation: int = 1, identity: KvIdentity = IDENTITY) -> Member:
        member = Member(self.server.url, name, incarnation, identity)
        self._stack.push_async_callback(member.link.close)
        await member.join()
        return member

    async def until(self, expected: dict[str, str]) -> None:
        """In the view of every gateway."""
        for gateway in self.gateways:
            await gateway.until(expected)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with etcd_server(tmp_path) as server:
        cluster = Cluster(server)
        try:
            await cluster.gateway()
            await cluster.gateway()
            yield cluster
        finally:
            await cluster.close()


async def test_every_gateway_sees_who_comes_what_it_does_and_who_goes(cluster: Cluster) -> None:
    a, b = await cluster.member(A), await cluster.member(B)
    await cluster.until({A: "decode active", B: "decode active"})
    await a.beat(Load(num_running=3))
    for gateway in cluster.gateways:
        await eventually(lambda manager=gateway.manager: manager.view.instances[0].load.num_running == 3)
    await b.leave()
    await cluster.until({A: "decode active"})
    assert cluster.gateways[1].dead == [DeadInstance(instance=B, incarnation=Incarnation(1))]
    assert (await a.beat()).dead == (DeadInstance(instance=B, incarnation=Incarnation(1)),)


async def test_what_one_gateway_decides_holds_for_the_others_and_the_member(cluster: Cluster) -> None:
    a, b, _ = await cluster.member(A), await cluster.member(B), await cluster.member(C)
    await cluster.until({A: "decode active", B: "decode active", C: "decode active"})
    first, second = cluster.gateways
    await first.manager.ask_role(A, Role.PREFILL)
    await cluster.until({A: "prefill active", B: "decode active", C: "decode active"})
    assert (await a.beat()).role is Role.PREFILL
    await second.manager.ask_drain(B)
    await second.manager.dismiss(B)
    await cluster.until({A: "prefill active", B: "decode draining", C: "decode active"})
    assert (await b.beat()).dismissed
    assert not (await a.beat()).dismissed


async def test_two_gateways_cannot_drain_the_last_two_at_the_same_moment(cluster: Cluster) -> None:
    await cluster.member(A)
    await cluster.member(B)
    await cluster.until({A: "decode active", B: "decode active"})
    first, second = cluster.gateways
    found = await asyncio.gather(first.manager.ask_drain(A), second.manager.ask_drain(B), return_exceptions=True)
    refused = [error for error in found if error is not None]
    assert [type(error) for error in refused] == [ConfigError]
    assert "is the last active decode instance" in str(refused[0])


async def test_one_gateway_s_autoscaler_acts_and_the_next_one_s_when_its_lease_ends_or_it_says_goodbye(
    cluster: Cluster,
) -> None:
    first, second = (gateway.manager for gateway in cluster.gateways)
    other = (await cluster.gateway(autoscales=False)).manager
    await eventually(lambda: second.acting_scaler.manager == other.acting_scaler.manager == first.endpoint)
    assert first.acting_scaler == ActingScaler(is_here=True, manager=first.endpoint)
    assert not second.acting_scaler.is_here
    assert not other.acting_scaler.is_here
    client = EtcdClient(parse_etcd(cluster.server.url))
    found = (await client.list(f"{prefix_of('test')}{GATEWAYS}")).entries
    await client.revoke(found[0].lease)  # as etcd does when it was not heard of for so long
    await client.close()
    await eventually(lambda: second.acting_scaler.is_here)
    await eventually(lambda: first.acting_scaler == ActingScaler(is_here=False, manager=second.endpoint))
    await second.stop()
    await eventually(lambda: first.acting_scaler.is_here)


async def test_nobody_acts_while_etcd_does_not_answer(cluster: Cluster) -> None:
    first, second = (gateway.manager for gateway in cluster.gateways)
    await eventually(lambda: first.acting_scaler.is_here)
    await cluster.server.kill()
    await eventually(lambda: not first.acting_scaler.is_here)
    assert second.acting_scaler == ActingScaler(is_here=False)
    await cluster.server.start()
    await eventually(lambda: first.acting_scaler.is_here or second.acting_scaler.is_here)


async def test_a_second_process_under_a_name_is_refused_and_the_first_is_not_disturbed(cluster: Cluster) -> None:
    a = await cluster.member(A)
    with pytest.raises(ConfigError, match=r"another process is alive as decode-0 .incarnation 1, its lease"):
        await cluster.member(A, incarnation=2)
    await cluster.until({A: "decode active"})
    client: RpcClient[ClusterMessage] = RpcClient(cluster.gateways[0].manager.endpoint, ClusterMessage)
    told = await client.call(MemberRequest(instance=A), deadline_s=5)
    await client.close()
    assert isinstance(told, MemberReply)
    assert (told.state, told.refusal, len(told.managers)) == ("active", "", 2)
    await a.leave()
    await cluster.member(A, incarnation=3)
    with pytest.raises(InstanceUnavailable, match="incarnation 2 of decode-0 is older than 3"):
        await cluster.member(A, incarnation=2)


async def lose_leases(cluster: Cluster, *names: InstanceId) -> None:
    """As when nobody kept them alive for too long."""
    client = EtcdClient(EtcdAddress(endpoints=(cluster.server.endpoint,)))
    for name in names:
        member = await client.get(f"{prefix_of('test')}{MEMBERS}{name}")
        assert member is not None
        await client.revoke(member.lease)
    await client.close()


async def test_a_member_that_alone_was_taken_for_dead_must_not_go_on(cluster: Cluster) -> None:
    a, b = await cluster.member(A), await cluster.member(B)
    await eventually_knows(a, {A, B})
    await lose_leases(cluster, A)
    assert not (await a.beat()).known
    with pytest.raises(LeaseLost, match="decode-0 was not heard of for so long that it is taken for dead"):
        await a.join()
    await cluster.until({B: "decode active"})
    assert (await b.beat()).known


async def test_members_whose_leases_all_ended_because_etcd_stood_still_come_back_as_they_are(cluster: Cluster) -> None:
    a, b = await cluster.member(A), await cluster.member(B)
    await eventually_knows(a, {A, B})
    await eventually_knows(b, {A, B})
    await lose_leases(cluster, A, B)
    for member in (b, a):
        assert not (await member.beat()).known
        await member.join()
    await cluster.until({A: "decode active", B: "decode active"})


async def test_one_of_another_model_is_refused_with_the_field(cluster: Cluster) -> None:
    await cluster.member(A)
    await cluster.until({A: "decode active"})
    other = msgspec.structs.replace(IDENTITY, dtype="g")
    with pytest.raises(IdentityMismatch, match="dtype: 'g' here, 'f' there"):
        await cluster.member(B, identity=other)
    with pytest.raises(ConfigError, match='"test" serves m at its other gateway'):
        await cluster.gateway(model="another")


async def test_reports_reach_every_gateway_and_a_dead_one_costs_nothing(cluster: Cluster) -> None:
    a = await cluster.member(A)
    assert len(await gateways_in_etcd(cluster.server.url)) == 2
    report = RequestReport(
        request=RequestId("r"),
        instance=A,
        phase=Phase.WHOLE,
        prompt_tokens=1,
        hbm_tokens=0,
        dram_tokens=0,
        received_tokens=0,
        computed_tokens=1,
        output_tokens=1,
    )
    await a.link.call(ReportRequest(report=report), deadline_s=5)
    assert [gateway.reports for gateway in cluster.gateways] == [[report], [report]]
    await cluster.gateways[0].manager.stop()
    await a.link.call(ReportRequest(report=report), deadline_s=5)
    assert cluster.gateways[1].reports == [report, report]
    assert cluster.gateways[1].members() == {A: "decode active"}


async def test_an_etcd_that_was_compacted_and_restarted_is_followed_as_before(cluster: Cluster) -> None:
    a = await cluster.member(A)
    await cluster.until({A: "decode active"})
    await cluster.server.compact()
    await cluster.server.kill()
    await eventually(lambda: not any(gateway.manager.registry_stats.is_up for gateway in cluster.gateways))
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        await cluster.gateways[0].manager.ask_role(A, Role.DECODE)
    assert cluster.gateways[0].members() == {A: "decode active"}
    await cluster.server.start()
    assert (await a.beat()).known
    await cluster.member(B)
    await cluster.until({A: "decode active", B: "decode active"})
    assert cluster.gateways[0].dead == []


async def test_while_etcd_stands_still_for_longer_than_silence_may_last_the_view_stays(cluster: Cluster) -> None:
    a = await cluster.member(A)
    await cluster.until({A: "decode active"})
    cluster.server.pause()
    await asyncio.sleep(6.0)  # the length of the stall is what is tested
    views = [gateway.members() for gateway in cluster.gateways]
    stats = [gateway.manager.registry_stats for gateway in cluster.gateways]
    cluster.server.go_on()
    assert views == [{A: "decode active"}] * 2
    assert [(s.is_up, s.num_outages) for s in stats] == [(False, 1)] * 2
    assert (await a.beat()).known
    await eventually(lambda: all(gateway.manager.registry_stats.is_up for gateway in cluster.gateways))
    assert cluster.gateways[0].members() == {A: "decode active"}


async def test_without_an_etcd_a_gateway_does_not_start_and_says_where_it_looked() -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    gateway = Gateway(f"etcd://{endpoint}")
    with pytest.raises(ConfigError, match=f"no etcd answers at {endpoint}: start it, or set --registry"):
        await gateway.manager.start()
    await gateway.manager.stop()
