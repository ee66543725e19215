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
        raise _refused(error) from error
    except ExceptionGroup as group:
        first = _first(group)
        if not isinstance(first, MemserveError):
            raise
        raise _refused(first) from group
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _refused(error: MemserveError) -> typer.Exit:
    errors.print(f"memserve: {error}", markup=False)
    return typer.Exit(2 if isinstance(error, ConfigError) else 1)


def _first(error: Exception) -> Exception:
    """What went wrong first in a group of tasks, which may be nested."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
