"""How options are laid over a settings file."""

from pathlib import Path

import pytest

from memserve.cli.options import ServeOptions, serve_config
from memserve.config import ClusterSettings
from memserve.core.enums import CachingMode

FILE = """
model = "/models/one"
[cluster]
prefill = 2
decode = 3
caching = "both"
[gateway]
port = 9000
[engine]
args = ["--max-model-len", "512"]
"""


def with_file(folder: Path, text: str = FILE, **typed: object) -> ServeOptions:
    file = folder / "settings.toml"
    file.write_text(text)
    return ServeOptions(config=file, **typed)  # type: ignore[arg-type]


def counts(cluster: ClusterSettings) -> tuple[int, int, int]:
    return cluster.prefill, cluster.decode, cluster.colocated


def test_nothing_typed_is_one_prefill_and_one_decode_instance_of_the_bundled_model() -> None:
    config = serve_config(ServeOptions())
    assert counts(config.cluster) == (1, 1, 0)
    assert (config.model, config.cluster.caching) == ("", CachingMode.RETURN)


def test_a_file_gives_what_is_not_typed(tmp_path: Path) -> None:
    config = serve_config(with_file(tmp_path))
    assert counts(config.cluster) == (2, 3, 0)
    assert (config.model, config.gateway.port, config.cluster.caching) == ("/models/one", 9000, CachingMode.BOTH)


def test_what_is_typed_wins_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    typed = with_file(tmp_path, port=0, caching=CachingMode.BASIC, model="/models/two", dram="2GiB")
    config = serve_config(typed)
    assert (config.gateway.port, config.cluster.caching, config.model) == (0, CachingMode.BASIC, "/models/two")
    assert (config.pool.dram, config.cluster.decode) == ("2GiB", 3)


def test_engine_arguments_typed_come_after_those_of_the_file(tmp_path: Path) -> None:
    config = serve_config(with_file(tmp_path, engine_args=("--dtype", "float16")))
    assert config.engine.args == ("--max-model-len", "512", "--dtype", "float16")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({"prefill": 4}, (4, 3, 0)),
        ({"decode": 1}, (2, 1, 0)),
        ({"colocated": 2}, (0, 0, 2)),
    ],
)
def test_a_typed_number_replaces_its_own_or_the_other_kind_of_cluster(
    tmp_path: Path, typed: dict[str, int], expected: tuple[int, int, int]
) -> None:
    assert counts(serve_config(with_file(tmp_path, **typed)).cluster) == expected


def test_a_typed_pair_overrules_colocated_instances_of_the_file(tmp_path: Path) -> None:
    options = with_file(tmp_path, "[cluster]\ncolocated = 3\n", prefill=2)
    assert counts(serve_config(options).cluster) == (2, 1, 0)


def test_colocated_instances_of_a_file_stay_when_nothing_is_typed(tmp_path: Path) -> None:
    assert counts(serve_config(with_file(tmp_path, "[cluster]\ncolocated = 3\n")).cluster) == (0, 0, 3)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({"instances": 2}, (0, 0, 0, 2)),
        ({"colocated": 1, "prefill": 1}, (1, 3, 1, 0)),
        ({"instances": 1, "decode": 2}, (2, 2, 0, 1)),
        ({"instances": 1, "prefill": 1, "decode": 0}, (1, 0, 0, 1)),
    ],
)
def test_roles_may_be_mixed_and_typed_ones_overrule_the_others_of_the_file(
    tmp_path: Path, typed: dict[str, int], expected: tuple[int, int, int, int]
) -> None:
    cluster = serve_config(with_file(tmp_path, **typed)).cluster
    assert (*counts(cluster), cluster.instances) == expected


def test_flexible_instances_of_a_file_stay_when_nothing_is_typed(tmp_path: Path) -> None:
    assert serve_config(with_file(tmp_path, "[cluster]\ninstances = 3\n")).cluster.instances == 3


def test_a_disk_and_its_marks_come_from_the_file_and_a_typed_disk_wins(tmp_path: Path) -> None:
    text = '[pool]\ndisk = "/kv:1GiB"\nmarks = {low = 0.5, high = 0.6}\n'
    assert serve_config(with_file(tmp_path, text)).pool.disk == "/kv:1GiB"
    typed = serve_config(with_file(tmp_path, text, disk="/other:2GiB")).pool
    assert (typed.disk, typed.marks.low, typed.marks.high) == ("/other:2GiB", 0.5, 0.6)
