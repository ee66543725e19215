"""Whether a model that is no folder here can be what the user meant: a hub name that the engine may resolve.

Looks into the hub's local cache; never goes to the network.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from memserve.core.errors import ConfigError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PATH_START = ("/", ".", "~")
_ON = ("1", "ON", "YES", "TRUE")


def check_hub_model(model: str, environment: Mapping[str, str]) -> None:
    """Raise ConfigError when `model` reads like a path, or like a name that cannot be looked up offline."""
    if model.startswith(_PATH_START) or not _HUB_NAME.fullmatch(model):
        raise ConfigError(f'model folder "{model}" does not exist: check the path, or give a hub name (owner/name)')
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environment.get(name, "").upper() in _ON]
    cache = _hub_cache(environment)
    if offline and not (cache / f"models--{model.replace('/', '--')}").is_dir():
        raise ConfigError(
            f'"{model}" is neither a folder here nor in the hub cache {cache}, and {offline[0]} forbids to fetch it: '
            f"unset {offline[0]}, or give a folder"
        )


def _hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps models, by the same variables in the same order."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"
