"""
Demo: the whole journey on this machine, with nothing to configure.

Makes an inbox, an outbox and a configuration, drops the sample pictures that come with the package, and runs the very
daemon against the embedded prediction server. Run again, it finds everything done. Status as `once`.
"""

import asyncio
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import commands, local, loop
from daemon import config as configuration
from daemon.adapters.outboxes import MARKER
from daemon.adapters.systemd import Notifier
from daemon.config import Secret
from daemon.engine.model import Model
from daemon.exits import Exit
from daemon.rules.faults import Blame, Fault
from daemon.rules.names import shown
from daemon.service import Orders

if TYPE_CHECKING:
    from daemon.config_model import Config

SAMPLES = Path(__file__).parent / "samples"
CONFIG = """\
# Made by `esrgand demo`. Everything happens on this machine.
state_dir = "state"

[[folder]]
inbox  = "inbox"
outbox = "outbox"
quiet_seconds = 0.5
scan_seconds = 2

[api]
base_url = "embedded"

[storage]
kind = "vendor"

[http]
listen = ""
"""


def demo(folder: Path, *, keep: bool) -> Exit:
    """`esrgand demo`."""
    folder = folder.absolute()
    try:
        for name in ("inbox", "outbox"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        path = folder / "config.toml"
        if not path.exists():
            path.write_text(CONFIG, "utf-8")
    except OSError as error:
        raise Fault(
            f"{folder} cannot be made ({error.strerror}).", blame=Blame.HOUSE, remedy="Name another with --dir."
        ) from error
    config = configuration.load(path)
    print(f"inbox:  {folder / 'inbox'}\noutbox: {folder / 'outbox'}")
    print(f"engine: {_engine(config)}\n", flush=True)
    orders = Orders()
    status = loop.run(_demo(config, folder, orders, keep=keep))
    results = [path for path in (folder / "outbox").rglob("*.json") if path.name != os.fsdecode(MARKER)]
    for result in sorted(results):
        kind = "failed" if result.name.endswith(".error.json") else "done"
        print(f"{kind}: {shown(bytes(result.relative_to(folder))).removesuffix('.json')}")
    print(f"\nLook into {folder / 'outbox'}: beside each picture lies its sidecar.")
    return orders.end(status)


def _engine(config: "Config") -> str:
    """What will upscale, and what would be better."""
    wish = local.Wish(**config.server.model_dump())
    found = None if wish.engine == "lanczos" else local.network(wish, [config.state_dir / local.MODELS])
    if isinstance(found, Model):
        return f"Real-ESRGAN ({found.name})"
    why = f"\n        {found.what}. {found.remedy}" if isinstance(found, local.Lack) else ""
    return f"lanczos resampling, not a neural network (it stands in for the hosted API){why}"


async def _demo(config: "Config", folder: Path, orders: Orders, *, keep: bool) -> Exit:
    orders.listen()
    if keep:
        print("Drop your own pictures into the inbox; Ctrl-C ends it.\n", flush=True)
    watching = None
    if sys.stderr.isatty() and not keep:
        from daemon.progress import Progress

        watching = Progress()
    with watching or nullcontext():
        service = commands.make_service(
            config,
            Secret(""),
            None,
            Notifier(os.environ),
            orders,
            once=not keep,
            on_beat=watching.beat if watching else None,
            level="warning" if watching else None,
        )
        running = asyncio.create_task(service.run())
        await asyncio.to_thread(_drop_samples, folder / "inbox")
        return await running


def _drop_samples(inbox: Path) -> None:
    """As a careful program drops files: under another name first, then renamed."""
    for sample in sorted(SAMPLES.glob("*.*")):
        if not (inbox / sample.name).exists():
            part = inbox / f".{sample.name}.part"
            shutil.copyfile(sample, part)
            part.rename(inbox / sample.name)
