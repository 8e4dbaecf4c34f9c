"""
The command line: what `esrgand` is called with. Exit statuses are in `exits.py`.

Looking and steering (`status`, `show`, `retry`, `release`, `backup`, `prune`) go through the running daemon's control
socket, or straight to the ledger where none runs. Nothing heavy is imported before a command needs it. Whatever goes
wrong is a sentence on standard error, never a traceback.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from daemon import __version__
from daemon.exits import AtOnce, Exit
from daemon.loop import leave_threads

DEFAULT_CONFIG = "/etc/esrgand/config.toml"
THREADS_SECONDS = 1.0  # for all that are still in the middle of something, together
# What names all instead of one, and what to say to a person who names neither or both.
EVERYTHING = {"retry": "name a picture or a job, or --failed.", "release": "name a picture or a job, or --all."}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Wrong usage has an exit status of its own."""
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"esrgand: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="esrgand", description="A hot folder for super-resolution.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"esrgand {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, *, config: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if config:
            default = os.environ.get("ESRGAND_CONFIG", DEFAULT_CONFIG)
            command.add_argument(
                "--config", type=Path, default=Path(default), metavar="FILE", help=f"configuration (default: {default})"
            )
        return command

    demo = add("demo", "the whole journey on this machine, with sample pictures and nothing to configure", config=False)
    demo.add_argument("--dir", type=Path, default=Path("esrgand-demo"), help="where to (default: ./esrgand-demo)")
    demo.add_argument("--keep", action="store_true", help="watch on until Ctrl-C")
    for name, text in (("run", "the daemon"), ("once", "everything that is in the inboxes now, then the end")):
        add(name, text).add_argument(
            "--take-over",
            action="store_true",
            help="fill outboxes that another ledger marked, and take inboxes for what is there now",
        )
    add("check", "try all that the daemon needs and say what to mend")
    add("estimate", "what is waiting and what it would cost; spends nothing")
    status = add("status", "what is going on")
    status.add_argument("--json", action="store_true", help="as JSON")
    show = add("show", "all about a picture or a job")
    show.add_argument("what", metavar="PATH|JOB")
    retry = add("retry", "try failed pictures again")
    retry.add_argument("what", metavar="PATH|JOB", nargs="?")
    retry.add_argument("--failed", action="store_true", help="all that failed")
    release = add("release", "let held pictures go on")
    release.add_argument("what", metavar="JOB", nargs="?")
    release.add_argument("--all", action="store_true", help="all that are held")
    backup = add("backup", "copy the ledger to a new file, with the daemon running or not")
    backup.add_argument("what", metavar="FILE")
    prune = add("prune", "forget how pictures went that were done long ago, but not what was paid for")
    prune.add_argument("what", metavar="DAYS", type=_positive, help="what ended more than so many days ago")
    _add_models(add("models", "the networks that are on this machine, and those that can be had"))
    serve = add("serve", "the local prediction server alone", config=False)
    serve.add_argument("--listen", default="127.0.0.1:8585", metavar="HOST:PORT", help="default: 127.0.0.1:8585")
    serve.add_argument("--dir", type=Path, default=Path("esrgand-server"), help="where it keeps its state")
    serve.add_argument("--key-file", type=Path, help="the key that clients must show (else ESRGAND_API_KEY)")
    serve.add_argument("--creates-per-minute", type=_positive, default=100, metavar="N", help="default: 100")
    serve.add_argument("--in-flight", type=_positive, default=10, metavar="N", help="default: 10")
    serve.add_argument("--workers", type=_positive, default=2, metavar="N", help="at the same time (default: 2)")
    serve.add_argument("--predict-seconds", type=float, default=0.0, metavar="S", help="take at least this long")
    serve.add_argument("--usd-per-second", type=float, default=0.0, metavar="USD", help="bill this (default: 0)")
    serve.add_argument("--pixels-max", type=_positive, default=2_096_704, metavar="N", help="default: 2096704")
    serve.add_argument("--engine", choices=("auto", "real-esrgan", "lanczos"), default="auto", help="default: auto")
    serve.add_argument("--model", default="realesr-general-x4v3", metavar="NAME", help="default: realesr-general-x4v3")
    serve.add_argument("--models", type=Path, metavar="DIR", help="where models are (default: models in --dir)")
    serve.add_argument("--threads", type=_count, default=0, metavar="N", help="of the network (default: all cores)")
    serve.add_argument("--memory-max-mb", type=_positive, default=1024, metavar="MB", help="default: 1024")
    serve.add_argument("--vulkan", default="off", metavar="off|auto|NAME", help="a graphics card (default: off)")
    serve.add_argument("--face-enhance", choices=("refuse", "ignore"), default="refuse", help="default: refuse")
    add("schema", "the JSON Schema of the sidecar", config=False)
    return parser


def _add_models(models: argparse.ArgumentParser) -> None:
    """What can be done with models; where they lie may be said before or after it."""
    text = "the state directory, where there is no configuration"
    models.add_argument("--dir", type=Path, default=None, metavar="DIR", help=text)
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    listed = actions.add_parser("list", help="what there is (also without an action)")
    pull = actions.add_parser("pull", help="download an official one")
    pull.add_argument("name", metavar="NAME")
    add = actions.add_parser("add", help="install files from disk: a .pth, or a .param with its .bin")
    add.add_argument("files", metavar="FILE", type=Path, nargs="+")
    for action in (listed, pull, add):
        action.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help="configuration")
        action.add_argument("--dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=text)


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, from 1 to 999999999")
    return int(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Parse, run the command, exit with its status."""
    _mend_streams()
    status: Any = Exit.DONE
    patience = THREADS_SECONDS
    try:
        try:
            status = _dispatch(_parsed(argv))
        except AtOnce as end:
            status, patience = end.status, 0.0
        except SystemExit as end:  # Help, or wrong usage.
            status = end.code
        except KeyboardInterrupt:
            _complain("interrupted.")
            status = Exit.PICTURES
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)  # Whoever read our output has seen enough.
    except OSError as error:
        _complain(f"{error.filename or 'standard output'}: {error.strerror}.")
        _silence(sys.stdout)
        status = Exit.HOUSE
    try:
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(status))  # Nothing is left to do but to wait for threads.
    if leave_threads(patience):
        os._exit(status)  # A thread that hangs in a dead mount must not hold up the end.
    sys.exit(status)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command in EVERYTHING and bool(arguments.what) == bool(_everything(arguments)):
        parser.error(f"{arguments.command}: {EVERYTHING[arguments.command]}")
    return arguments


def _mend_streams() -> None:
    """A stream that was closed when we were started loses what it is given, and no file of ours gets its number.

    What a person should have read from standard output, and could not, is an error in the end: it is not writable.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            device = os.open(os.devnull, flags)
            if device != number:
                os.dup2(device, number)
                os.close(device)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  (open until the end)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115  (open until the end)


def _silence(stream: TextIO) -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"esrgand: {text}", file=sys.stderr)


def _everything(arguments: argparse.Namespace) -> bool:
    return bool(getattr(arguments, "failed", False) or getattr(arguments, "all", False))


def _dispatch(arguments: argparse.Namespace) -> Exit:
    match arguments.command:
        case "schema":
            sys.stdout.write(Path(__file__).with_name("sidecar.schema.json").read_text("utf-8"))
            return Exit.DONE
        case "status" | "show" | "retry" | "release" | "backup" | "prune":
            return _guarded(lambda: _desk(arguments))
        case "demo":
            from daemon import demo

            return _guarded(lambda: demo.demo(arguments.dir, keep=arguments.keep))
        case "serve":
            from daemon import commands

            return _guarded(lambda: commands.serve(arguments))
        case "check":
            from daemon import check

            return _guarded(lambda: check.check(arguments.config))
        case "models":
            from daemon import models

            return _guarded(lambda: models.models(arguments))
        case "estimate":
            from daemon import estimate

            return _guarded(lambda: estimate.estimate(arguments.config))
        case _:
            from daemon import commands

            return _guarded(
                lambda: commands.run(arguments.config, once=arguments.command == "once", take_over=arguments.take_over)
            )


def _guarded(command: Callable[[], Exit]) -> Exit:
    """Run a command; what a person can mend becomes sentences and an exit status."""
    from daemon.config import ConfigError
    from daemon.rules.faults import Fault

    try:
        return command()
    except ConfigError as error:
        for complaint in error.complaints:
            _complain(complaint)
        return Exit.CONFIG
    except Fault as fault:
        _complain(f"{fault.said} {fault.remedy}".rstrip())
        return Exit.HOUSE


def _desk(arguments: argparse.Namespace) -> Exit:
    """See and steer, with the daemon running or not."""
    from daemon import look

    what = str(getattr(arguments, "what", None) or "")
    request: dict[str, Any] = {"ask": arguments.command, "what": what, "all": _everything(arguments)}
    if what and arguments.command != "prune" and (arguments.command == "backup" or os.path.lexists(what)):
        request["what"] = str(Path(what).absolute())
    answer: dict[str, Any] = look.ask(arguments.config, request)
    if "error" in answer:
        _complain(answer["error"])
        return Exit.HOUSE
    if arguments.command == "show" or getattr(arguments, "json", False):
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        nothing = "" if arguments.command != "show" or answer["jobs"] or answer["waiting"] else "nothing is known"
    else:
        nothing = "" if _everything(arguments) else look.nothing(arguments.command, answer)
        if not nothing:
            print(look.in_words(arguments.command, answer))
    if nothing:
        _complain(f"{nothing} of {arguments.what}.")
    return Exit.HOUSE if nothing else Exit.DONE


if __name__ == "__main__":
    main()
