"""Models by name: what is here is not asked for, what the hub lacks is refused, a hub that is away is named."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from memserve.core.errors import ConfigError
from memserve.manager.hub import ask_hub


class OneModel(BaseHTTPRequestHandler):
    """A hub with the model owner/known."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/api/models/owner/known" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), OneModel)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_that_the_hub_has_is_let_through(hub: str, tmp_path: Path) -> None:
    ask_hub("owner/known", {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path)})


def test_a_model_that_the_hub_lacks_is_refused(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match='no public model "owner/unknown"'):
        ask_hub("owner/unknown", {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path)})


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the hub cannot be reached .*give a folder"):
        ask_hub("owner/known", {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)})


def test_what_is_in_the_cache_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "models--owner--known").mkdir()
    ask_hub("owner/known", {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)})
