"""A cluster with a secret, as a person sets it up and as somebody finds it who has another one or none."""

import os
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from memserve.cli.admin import ask
from memserve.core.errors import ConfigError, SecretRefused
from memserve.security.gateway_access import GatewayAccess
from memserve.security.https import towards_instances
from memserve.security.secret import Purpose, make_secret, read_secret
from memserve.serving.joined_instance import find_cluster
from tests.serving.processes import memserve
from tests.serving.test_joined_instance import refusal


@pytest.mark.timeout(180)
async def test_only_who_has_the_secret_joins_looks_or_changes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for file in (ours, theirs):
        make_secret(file)
    secret = read_secret(ours)
    async with memserve("serve", "--port", "0", "--cluster-secret", str(ours)) as serve:
        url = await serve.url()
        told = await ask(url, "/admin/cluster", dict[str, Any], access=GatewayAccess(secret=secret))
        instances = {i["peer"]["instance"]: i for i in told["view"]["instances"]}
        assert {i["state"] for i in instances.values()} == {"active"}
        await strangers_are_refused(url, told["manager"], instances["decode-0"]["url"], theirs)
        check_nothing_shows(serve.pid, ours.read_text().strip(), secret.token(Purpose.ADMIN_HTTP))
        body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hi"}]}
        async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
        assert (await find_cluster(url, GatewayAccess(secret=secret))).managers == (told["manager"],)


async def strangers_are_refused(url: str, manager: str, instance: str, theirs: Path) -> None:
    line = await refusal("--role", "decode", "--join", manager, "--cluster-secret", str(theirs))
    assert "does not take the cluster secret that is given here" in line
    with pytest.raises(SecretRefused, match="talks only to who knows its cluster's secret"):
        await find_cluster(manager)
    with pytest.raises(SecretRefused, match="wants its cluster's secret"):
        await find_cluster(url, GatewayAccess(secret=read_secret(theirs)))
    with pytest.raises(ConfigError, match="needs its secret"):
        await ask(url, "/admin/cluster", dict[str, Any])
    await its_server_hangs_up_on_strangers(instance, theirs)
    host, _, port = manager.removeprefix("tcp://").rpartition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(os.urandom(1 << 12))


async def its_server_hangs_up_on_strangers(instance: str, theirs: Path) -> None:
    """One that speaks plain HTTP, one without a certificate, one with another secret's, one who sends anything."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    other = towards_instances(read_secret(theirs))
    trusting = towards_instances(read_secret(theirs))
    assert isinstance(trusting, ssl.SSLContext)
    trusting.verify_mode = ssl.CERT_NONE
    for url, shown in (
        (instance.replace("https:", "http:"), True),
        (instance, anybody),
        (instance, other),
        (instance, trusting),
    ):
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as http, http.get(f"{url}/health", ssl=shown):
                pass
    host, _, port = instance.removeprefix("https://").rpartition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(os.urandom(1 << 12))


def check_nothing_shows(pid: int, *hidden: str) -> None:
    """On no command line, which every user of the machine can read, and the secret itself in no environment."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        assert not [text for text in hidden if text in " ".join(process.cmdline())]
        assert hidden[0] not in str(process.environ())
