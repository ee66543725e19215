"""One plain vLLM for the whole run: the truth that every answer is compared with."""

import os
from collections.abc import Iterator

import pytest

from memserve.bundled.model import bundled_model, cache_folder
from tests.e2e.served import Served, plain_vllm


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = bundled_model(cache_folder(os.environ))
    server = plain_vllm(model, "--no-enable-prefix-caching", log=tmp_path_factory.mktemp("plain") / "vllm.log")
    try:
        yield server.wait_ready()
    finally:
        server.close()
