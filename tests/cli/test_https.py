"""A gateway with a certificate of its owner: who is served, and what commands say when they do not trust it."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from memserve.cli import main
from memserve.cli.admin import ask
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.gateway.server import running
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.security.https import server_certificate
from memserve.serving.joined_instance import find_cluster
from tests.transport.certificates import made_tls

APP = Starlette(routes=[Route("/", lambda _: JSONResponse({"it": "answers"}))])


async def test_commands_talk_to_a_gateway_whose_certificate_they_trust_and_say_how_to_trust_it(tmp_path: Path) -> None:
    files = made_tls(tmp_path)
    async with running(APP, certificate=server_certificate(files.certificate, files.key)) as port:
        url = f"https://127.0.0.1:{port}"
        trusting = GatewayAccess(ca=files.ca)
        assert await ask(url, "/", dict[str, str], access=trusting) == {"it": "answers"}
        for question in (ask(url, "/", dict[str, str], access=ANY_GATEWAY), find_cluster(url)):
            with pytest.raises(ConfigError, match=r"the certificate of https://\S+ is not trusted \(.+--ca FILE"):
                await question
        with pytest.raises(ConfigError, match=r"Hostname mismatch.*the host as the certificate has it"):
            await ask(f"https://localhost:{port}", "/", dict[str, str], access=trusting)
        with pytest.raises(InstanceUnavailable, match="no memserve gateway answers"):
            await ask(url.replace("https", "http"), "/", dict[str, str], access=trusting)
        assert await ask(url, "/", dict[str, str], access=trusting) == {"it": "answers"}


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--ssl-certfile", "cannot be used (No such file or directory): give PEM files"),
        ("--ssl-keyfile", "give its certificate, too, with --ssl-certfile FILE"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_line(
    option: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(("serve", option, str(tmp_path / "none.pem")))
    said = capsys.readouterr().err
    assert said.startswith("memserve: --ssl-")
    assert says in said


def test_a_ca_file_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMSERVE_CA", str(tmp_path / "none.pem"))
    with pytest.raises(SystemExit):
        main(("status", "--url", "https://127.0.0.1:1"))
    assert "none.pem cannot be used (No such file or directory)" in capsys.readouterr().err
