"""The command line: `memserve serve | demo | status`. Owns what is typed and what is printed, decides nothing else."""

from memserve.cli.app import main

__all__ = ["main"]
