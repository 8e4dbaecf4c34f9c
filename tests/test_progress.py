"""The bar on a terminal: whatever it is told, it draws."""

import io

from daemon.progress import Progress
from daemon.rules.lifecycle import State


class Terminal(io.StringIO):
    """What was drawn, as one."""

    def isatty(self) -> bool:
        return True


def drawn(problem: str) -> str:
    """What a terminal of 200 columns shows for a problem."""
    terminal = Terminal()
    with Progress(terminal, width=200) as progress:
        progress.beat({State.DONE: 1}, [problem])
    return terminal.getvalue()


def test_a_folder_may_be_called_as_if_it_were_markup() -> None:
    for name in ("x[/x]", "[/bold]", "[red]", "a]b[c", "[link=https://example.org]"):
        assert f"/in/{name} is not there." in drawn(f"/in/{name} is not there.")
