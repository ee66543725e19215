"""How every refusal looks: one line on stderr and an exit status, never a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from memserve.core.errors import ConfigError, MemserveError

errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn our own errors into one line and an exit status."""
    try:
        yield
    except MemserveError as error:
        errors.print(f"memserve: {error}", markup=False)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
