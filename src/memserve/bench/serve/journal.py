"""The lines of a run on disk: appended as cells are done, read again when an interrupted run goes on.

Owns what counts as the same run. Requests of a cell without a result are of a run that was interrupted inside it;
they are dropped, and the cell is played again.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from memserve.bench.serve.record import (
    Cell,
    RequestLine,
    ServeResult,
    read_requests,
    read_results,
    requests_file,
    results_file,
)
from memserve.core.errors import ConfigError

Answers = dict[tuple[int, int], str]
"""Digests by session and turn."""


class Journal:
    """Lines beside `json`, of the run with the digest `run`."""

    def __init__(self, json: Path, *, run: str) -> None:
        """Raises ConfigError when there are lines of another run, or what cannot be read or written."""
        self._results_file = results_file(json)
        self._requests_file = requests_file(json)
        self.results: list[ServeResult] = []
        requests: list[RequestLine] = []
        if self._results_file.exists():
            self.results = read_results(self._results_file)
            self._check_run(run)
        if self._requests_file.exists():
            requests = [line for line in read_requests(self._requests_file) if self.find(line) is not None]
        self._answers = {(line.system, line.rate, line.repetition): Answers() for line in requests}
        for line in requests:
            self._note(line)
        try:
            json.parent.mkdir(parents=True, exist_ok=True)
            self._results_file.write_bytes(_lines(self.results))
            self._requests_file.write_bytes(_lines(requests))
        except OSError as error:
            raise ConfigError(f"cannot write {error.filename}: {error.strerror}; name another --json") from error

    def find(self, cell: Cell) -> ServeResult | None:
        """The result of this cell, if it is done."""
        key = _key(cell)
        return next((result for result in self.results if _key(result) == key), None)

    def reference(self, cell: Cell) -> tuple[str, Answers]:
        """Whose answers to compare with: the first system that did the same; "" when there is none yet."""
        for result in self.results:
            if (result.workload, result.rate, result.repetition) == (cell.workload, cell.rate, cell.repetition):
                return result.system, self._answers.get((result.system, result.rate, result.repetition), {})
        return "", {}

    def append(self, result: ServeResult, requests: Sequence[RequestLine]) -> None:
        """The cell is done; its requests are written first."""
        with self._requests_file.open("ab") as file:
            file.write(_lines(requests))
        with self._results_file.open("ab") as file:
            file.write(_lines([result]))
        self.results.append(result)
        for line in requests:
            self._note(line)

    def _note(self, line: RequestLine) -> None:
        answers = self._answers.setdefault((line.system, line.rate, line.repetition), {})
        answers[line.session, line.turn] = line.answer

    def _check_run(self, run: str) -> None:
        other = next((result for result in self.results if result.run != run), None)
        if other is not None:
            raise ConfigError(
                f"{self._results_file} holds another run ({other.workload}, {other.sessions} sessions, seed "
                f"{other.seed}, or of other data or another model): discard it with --discard, or name another --json"
            )


def discard(json: Path) -> None:
    """Remove what an earlier run has left beside `json`."""
    for file in (results_file(json), requests_file(json)):
        file.unlink(missing_ok=True)


def _key(cell: Cell) -> tuple[str, str, float, int]:
    return cell.system, cell.workload, cell.rate, cell.repetition


def _lines(records: Sequence[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)
