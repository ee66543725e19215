"""Whether a model that is no folder here can be what the user meant: a hub name that the engine may resolve.

`check_hub_model` looks into the hub's local cache; `ask_hub` goes to the hub itself, once, with a deadline.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from memserve.core.errors import ConfigError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PATH_START = ("/", ".", "~")
_ON = ("1", "ON", "YES", "TRUE")
_DEADLINE_S = 10.0
_UNKNOWN = (401, 403, 404)


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


def ask_hub(model: str, environment: Mapping[str, str]) -> None:
    """Ask the hub once for a model that is not on this machine. Raises ConfigError when it has none or is away."""
    cache = _hub_cache(environment)
    if Path(model).is_dir() or (cache / f"models--{model.replace('/', '--')}").is_dir():
        return
    from huggingface_hub import constants, get_token  # noqa: PLC0415 - takes seconds, most models are folders

    endpoint = environment.get("HF_ENDPOINT", constants.ENDPOINT)
    question = urllib.request.Request(f"{endpoint}/api/models/{model}", method="HEAD")  # noqa: S310
    try:
        urllib.request.urlopen(question, timeout=_DEADLINE_S).close()  # noqa: S310 - the operator names the endpoint
    except urllib.error.HTTPError as error:
        if error.code in _UNKNOWN and get_token() is None:
            raise ConfigError(f'the hub has no public model "{model}" (HTTP {error.code}): check the name') from error
    except OSError as error:
        raise ConfigError(
            f'"{model}" is neither a folder here nor in the hub cache {cache}, and the hub cannot be reached '
            f"({error}): give a folder, or fetch the model first"
        ) from error


def _hub_cache(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps models, by the same variables in the same order."""
    if cache := environment.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"
