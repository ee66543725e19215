"""The page says what makes each of its parts: every such command is one that `memserve` takes."""

import shlex

import pytest
import typer

from memserve.bench.report.make import sections
from memserve.cli.app import app


@pytest.mark.parametrize("command", [section.command for section in sections()])
def test_what_makes_a_section_is_a_whole_command(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "memserve"
    found = typer.main.get_command(app)
    while isinstance(found, typer.core.TyperGroup):
        name, *arguments = arguments
        found = found.commands[name]
    found.make_context(found.name, arguments)
