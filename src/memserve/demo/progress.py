"""The demo's progress on a terminal: a bar for what can be counted, a spinner for what cannot, a line per turn."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class TerminalProgress:
    """Shown for the length of the block: `with TerminalProgress(console) as progress`."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def phase(self, text: str, *, steps: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(text, total=steps or None)
        self._bars.console.print(text, highlight=False, soft_wrap=True)

    def step(self, text: str) -> None:
        if self._task is not None:
            self._bars.advance(self._task)
        self._bars.console.print(f"  {text}", highlight=False, soft_wrap=True)
