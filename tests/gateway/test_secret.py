"""A gateway whose cluster has a secret: who may use its admin API, and what its instances are shown."""

import pytest
from yarl import URL

from memserve.security.secret import ClusterSecret, Purpose
from tests.gateway.rig import Rigs, chat

SECRET, ANOTHER = ClusterSecret(b"s" * 32), ClusterSecret(b"a" * 32)
ADMIN = {
    "GET": ("/admin/cluster", "/admin/requests", "/admin/join", "/admin/operations", "/admin/paths", "/admin/pins"),
    "POST": ("/admin/scale", "/admin/drain", "/admin/role"),
    "PUT": ("/admin/transfer", "/admin/policy", "/admin/instances/d0/pool"),
}


@pytest.mark.parametrize("shown", [None, "Bearer ", f"Bearer {ANOTHER.token(Purpose.ADMIN_HTTP)}", "Bearer \xff"])
async def test_the_admin_api_is_closed_to_who_does_not_show_its_token(rig: Rigs, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    async with rig(secret=SECRET) as cluster:
        for method, paths in ADMIN.items():
            for path in paths:
                async with cluster.http.request(method, cluster.url + path, headers=headers, data=b"{}") as answer:
                    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
                    assert "--cluster-secret FILE" in (await answer.json())["error"]["message"]
        assert not cluster.cluster.operations.latest()


async def test_the_admin_api_is_open_to_who_shows_its_token_and_health_to_all(rig: Rigs) -> None:
    token = {"Authorization": f"Bearer {SECRET.token(Purpose.ADMIN_HTTP)}"}
    async with rig(secret=SECRET) as cluster:
        for path, headers in (("/admin/cluster", token), ("/health", {}), ("/metrics", {})):
            async with cluster.http.get(cluster.url + path, headers=headers) as answer:
                assert answer.status == 200


async def test_random_bytes_and_strange_paths_do_not_open_the_admin_api(rig: Rigs) -> None:
    async with rig(secret=SECRET) as cluster:
        for path in ("/admin/%2e/cluster", "//admin/cluster", "/v1/../admin/cluster", "/ADMIN/cluster", "/admin"):
            async with cluster.http.get(URL(cluster.url + path, encoded=True)) as answer:
                assert answer.status in (401, 404)
        assert (await cluster.post(chat()))[0] == 200
