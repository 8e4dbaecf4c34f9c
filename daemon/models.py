"""
Models: the networks that are on this machine and those that can be had (`esrgand models`), and how they get here.

Nothing is ever downloaded but by `pull`, which says first what, how much, from where and under which licence. What goes
wrong is a sentence on standard error; a name that is not known is wrong usage (64), everything else is status 1.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon import config as configuration
from daemon import loop
from daemon.adapters.clock import SystemClock
from daemon.config import ConfigError
from daemon.engine import catalogue
from daemon.engine.catalogue import RELEASES, Known
from daemon.engine.model import Missing, Model, ModelError, is_name, need_extra
from daemon.engine.pull import Report, pull
from daemon.engine.shelf import Shelf
from daemon.exits import Exit

FOLDER = "models"  # in the state directory


def models(arguments: argparse.Namespace) -> Exit:
    """`esrgand models`, `models pull` and `models add`."""
    shelf = Shelf(folder(arguments.config, arguments.dir))
    try:
        match arguments.action:
            case "pull":
                return _pull(shelf, arguments.name)
            case "add":
                return _add(shelf, arguments.files)
            case _:
                return _list(shelf)
    except ModelError as error:
        return _complain(error.text, Exit.HOUSE)


def folder(config: Path, state_dir: Path | None) -> Path:
    """Where models lie: in the state directory that was named, else in the configuration's. Raises ConfigError."""
    if state_dir is None:
        try:
            state_dir = configuration.read_state_dir(config)
        except ConfigError as error:
            if config.exists():
                raise
            hint = "Give --config FILE, or --dir DIR for the state directory itself (of esrgand serve or demo)."
            raise ConfigError([*error.complaints, hint]) from None
    return state_dir.absolute() / FOLDER


def _complain(text: str, status: Exit) -> Exit:
    print(f"esrgand: {text}", file=sys.stderr)
    return status


def _list(shelf: Shelf) -> Exit:
    """All that are known by name, then all others that are here."""
    here = shelf.names()
    broken: list[str] = []
    rows: list[tuple[str, ...]] = [("NAME", "SCALE", "SIZE", "LICENCE", "STATE")]
    for name in [*(known.name for known in catalogue.KNOWN), *here]:
        if name in [row[0] for row in rows]:
            continue
        row, complaint = _row(shelf, name, installed=name in here)
        rows.append(row)
        broken += [complaint] if complaint else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"Models in {shelf.folder}:")
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for known in catalogue.KNOWN:
        print(f"{known.name}: {known.about}.")
    if not here:
        print(f"None is installed. For the usual one: esrgand models pull {catalogue.DEFAULT}")
    for complaint in dict.fromkeys(broken):
        _complain(complaint, Exit.HOUSE)
    return Exit.HOUSE if broken else Exit.DONE


def _row(shelf: Shelf, name: str, *, installed: bool) -> tuple[tuple[str, ...], str]:
    """What the list says of a model, and what is wrong with it."""
    known = catalogue.named(name)
    scale, size = (f"x{known.scale}", _size(known.size)) if known else ("", "")
    licence = known.licence if known else "not known"
    state, complaint = "can be pulled", ""
    if installed:
        try:
            if (model := shelf.find(name)) is not None:
                scale, size, state = f"x{model.scale}", _size(_bytes(model)), "installed"
                note = shelf.note(name)
                licence = (note and note.licence) or "not known"
        except Missing as error:
            state, complaint = "not looked at", error.text
        except ModelError as error:
            state, complaint = "damaged", error.text
    if name == catalogue.DEFAULT:
        state += " (default)"
    return (name, scale, size, licence, state), complaint


def _add(shelf: Shelf, files: list[Path]) -> Exit:
    for model in shelf.add(files):
        _said(shelf, model)
    return Exit.DONE


def _pull(shelf: Shelf, name: str) -> Exit:
    known = catalogue.named(name)
    if known is None:
        others = ", ".join(each.name for each in catalogue.KNOWN)
        what = name if is_name(name) else ascii(name)
        return _complain(f"{what} is not known by name. Known are: {others}. For others: models add.", Exit.USAGE)
    return fetch(shelf, known)


def fetch(shelf: Shelf, known: Known, releases: str = RELEASES) -> Exit:
    """Download an official network, unless it is here already. Raises ModelError."""
    need_extra()
    if _is_whole(shelf, known.name):
        print(f"{known.name} is installed already, in {shelf.folder}.")
        return Exit.DONE
    print(f"{known.name}: {known.licence}, {catalogue.COPYRIGHT}.")
    print(f"Downloading {_size(known.size) or 'it'} from {releases}{known.path}", flush=True)
    with _bar(known) as report:
        model = loop.run(_interruptible(known, shelf, report, releases))
    _said(shelf, model)
    return Exit.DONE


async def _interruptible(known: Known, shelf: Shelf, report: Report, releases: str) -> Model:
    try:
        return await pull(known, shelf, SystemClock(), report, releases=releases)
    except asyncio.CancelledError:
        print("esrgand: what came so far is kept; the same command goes on there.", file=sys.stderr)
        raise


def _is_whole(shelf: Shelf, name: str) -> bool:
    try:
        return shelf.find(name) is not None
    except ModelError as error:
        _complain(error.text, Exit.HOUSE)
        return False


@contextmanager
def _bar(known: Known) -> Iterator[Report]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(known.name, total=known.size)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _said(shelf: Shelf, model: Model) -> None:
    note = shelf.note(model.name)
    licence = (note and note.licence) or "not known to us; its authors say what you may do with it"
    print(f"{model.name} is installed: x{model.scale}, {_size(_bytes(model))}. Licence: {licence}.")
    print("An esrgand that runs takes it up when it is started again.")


def _bytes(model: Model) -> int:
    return model.param.stat().st_size + model.weights.stat().st_size


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"
