"""
Progress: a bar on a terminal, from the counts that every beat brings. Imported only where there is a terminal.

It promises to leave the terminal as it was, also after Ctrl-C, and never fails the work that it shows: it is told
numbers and draws them, nothing else. Log lines that come meanwhile go above the bar.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from daemon.rules.lifecycle import State

ENDS = (State.DONE, State.FAILED, State.HELD)


class Progress:
    """Pictures that came to an end, of all that are known; those of former runs are left out."""

    def __init__(self, stream: TextIO | None = None, width: int | None = None) -> None:
        """stream: instead of standard error."""
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),  # a file may be called [/bold]
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(file=stream, stderr=stream is None, width=width),
            transient=True,
        )
        self._task = self._bar.add_task("looking", total=None)
        self._before: int | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def beat(self, counts: Mapping[State, int], problems: list[str]) -> None:
        """The newest counts, and what is wrong."""
        ended = sum(counts.get(state, 0) for state in ENDS)
        self._before = ended if self._before is None else self._before
        total = sum(counts.values()) - self._before
        flying = counts.get(State.SUBMITTED, 0) + counts.get(State.SUBMITTING, 0)
        text = problems[0] if problems else f"{flying} in flight"
        self._bar.update(self._task, description=text, completed=ended - self._before, total=total or None)
