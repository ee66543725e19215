"""Instances as actors of a real Ray cluster of three nodes on loopback addresses: spread, restarted, moved, ended.

One test, as a Ray cluster takes seconds to start; its parts are named where they begin.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import alive, processes, spec, until

from memserve.cluster.restarts import RestartRules
from memserve.cluster.view import InstanceState
from memserve.config import RaySettings
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.launcher import InstanceEnded
from memserve.manager.manager import ClusterManager
from memserve.manager.ray_launcher import RayCluster, RayLauncher

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install memserve[ray]")
STORE_BYTES = 80 << 20
RULES = RestartRules(first_wait_s=0.1)
NAMES = ("colocated-0", "colocated-1")


class Nodes:
    """A head without CPUs, and nodes with two each, on addresses of their own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "node_ip_address": "127.0.0.2"})
        self.nodes = {host: self._add(host) for host in ("127.0.0.3", "127.0.0.4")}

    def _add(self, host: str) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES, node_ip_address=host)

    def kill(self, host: str) -> None:
        self.cluster.remove_node(self.nodes.pop(host), allow_graceful=False)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.fixture
async def connection(nodes: Nodes) -> AsyncIterator[RayCluster]:
    cluster = await RayCluster.connect(RaySettings(address=nodes.cluster.address), name="test")
    yield cluster
    await cluster.close()


class Rig:
    """A cluster manager over a Ray launcher."""

    def __init__(self, connection: RayCluster) -> None:
        self.ends: list[InstanceEnded] = []
        clock = SystemClock()

        def launcher(on_end: Any) -> RayLauncher:
            def ended(end: InstanceEnded) -> None:
                self.ends.append(end)
                on_end(end)

            return RayLauncher(connection, is_loopback=False, rules=RULES, clock=clock, on_end=ended)

        self.manager = ClusterManager(
            cluster="test",
            bind="127.0.0.1",
            clock=clock,
            on_report=lambda _: None,
            on_change=lambda _view, _dead: None,
            launcher=launcher,
        )

    def hosts(self) -> dict[str, str]:
        """Where those serve that are active."""
        active = [i for i in self.manager.view.instances if i.state is InstanceState.ACTIVE]
        return {i.instance: i.url.removeprefix("http://").partition(":")[0] for i in active}


@pytest.fixture
async def rig(connection: RayCluster) -> AsyncIterator[Rig]:
    made = Rig(connection)
    await made.manager.start()
    yield made
    await made.manager.stop()


def placeable(folder: Path, name: str, join: str) -> LaunchSpec:
    """Told by options where to listen."""
    one = spec(folder, name, join=join)
    argv = (*one.argv, "--host", "nowhere", "--port", "0")
    return type(one)(**{field: getattr(one, field) for field in one.__struct_fields__} | {"argv": argv})


async def test_instances_are_spread_over_nodes_and_come_back_on_another_one_when_theirs_dies(
    nodes: Nodes, rig: Rig, tmp_path: Path
) -> None:
    specs = [placeable(tmp_path, name, rig.manager.endpoint) for name in NAMES]
    await rig.manager.launch(specs)
    await until(lambda: len(rig.hosts()) == 2, "both serve", deadline_s=60)
    assert set(rig.hosts().values()) == {"127.0.0.3", "127.0.0.4"}

    # A crash: its reason is told, and it is started again.
    first = (await processes(specs[0]))[0]
    os.kill(first, signal.SIGKILL)
    await until(lambda: rig.ends, "the end is told", deadline_s=60)
    assert rig.ends[0].why.startswith("ended by SIGKILL")
    assert f"its log is {specs[0].log} on node " in rig.ends[0].why
    assert (rig.ends[0].restart_in_s, rig.ends[0].num_restarts) == (0.1, 1)
    await until(lambda: len(rig.hosts()) == 2, "it serves again", deadline_s=60)

    # A node dies: what it ran is dead for the cluster, and started elsewhere.
    lost = rig.hosts()[NAMES[1]]
    before = {i.instance: i.incarnation for i in rig.manager.view.instances}
    nodes.kill(lost)
    await until(lambda: len(rig.ends) > 1, "the end is told", deadline_s=60)
    assert f"its Ray actor on node {lost} is gone" in rig.ends[1].why
    await until(lambda: set(rig.hosts()) == set(NAMES), "all serve again", deadline_s=60)
    assert lost not in rig.hosts().values()
    now = {i.instance: i.incarnation for i in rig.manager.view.instances}
    assert now[InstanceId(NAMES[1])] != before[InstanceId(NAMES[1])]

    # The cluster ends: nothing of it is left.
    pids = [json_pid for one in specs for json_pid in _pids(Path(one.log))]
    await rig.manager.stop()
    await until(lambda: not alive(pids), "nothing runs any more", deadline_s=20)


async def test_without_a_ray_cluster_the_message_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127.0.0.1:1 .* ray start --head"):
        await RayCluster.connect(RaySettings(address="127.0.0.1:1"), name="test")


def _pids(log: Path) -> list[int]:
    """Of all lives that wrote to this log."""
    return [
        int(line.partition('"pid": ')[2].partition(",")[0]) for line in log.read_text().splitlines() if '"pid"' in line
    ]
