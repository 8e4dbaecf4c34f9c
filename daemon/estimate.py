"""
Estimate: what is waiting in the inboxes and what it would cost; reads pictures and the ledger, sends nothing.

Files that the ledger knows unchanged are left out, as the daemon would. Prices are those of the last predictions where
there were any, else what the service usually takes. Status 0, or 1 where an inbox cannot be read.
"""

import sqlite3
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import config as configuration
from daemon import loop
from daemon.adapters.database import opened
from daemon.adapters.folder import DiskInbox
from daemon.adapters.ledger_desk import state_paths
from daemon.adapters.picture import VipsPictures
from daemon.config_values import EMBEDDED
from daemon.exits import Exit
from daemon.ports import mark
from daemon.rules import admission, budget
from daemon.rules.faults import Fault
from daemon.rules.job import Look
from daemon.rules.names import Selection, shown

if TYPE_CHECKING:
    from daemon.config_model import Config, FolderConfig

KNOWN = """
    SELECT p.path, p.size, p.mtime_ns, p.inode FROM picture p JOIN folder f ON f.id = p.folder
    WHERE f.inbox = ? AND p.phase != 'gone'
"""
LISTED_MAX = 20


def estimate(path: Path) -> Exit:
    """`esrgand estimate`."""
    config = configuration.load(path)
    return loop.run(_estimate(config))


async def _estimate(config: "Config") -> Exit:
    ledger = state_paths(config.state_dir)[0]
    with opened(ledger, read_only=True) if ledger.exists() else nullcontext() as db:
        return await _add_up(config, db)


async def _add_up(config: "Config", db: sqlite3.Connection | None) -> Exit:
    pictures = VipsPictures(pixels_max=config.decoded_pixels_max)
    price = 0.0 if config.api.base_url == EMBEDDED else _typical_usd(db)
    seen: set[str] = set()
    status, total, runs = Exit.DONE, 0, 0
    for folder in config.folders:
        try:
            jobs, more = await _folder(folder, config, db, pictures, price, seen)
            total, runs = total + jobs, runs + more
        except Fault as fault:
            print(f"esrgand: {fault.said} {fault.remedy}", file=sys.stderr)
            status = Exit.HOUSE
    print(f"In all: {total} to pay for, about {runs * price:.2f} USD.")
    pictures.close()
    return status


def _typical_usd(db: sqlite3.Connection | None) -> float:
    usual = budget.TYPICAL_PREDICT_SECONDS * budget.USD_PER_SECOND
    if db is None:
        return usual
    mean = db.execute(
        "SELECT avg(cost_usd) FROM (SELECT cost_usd FROM bill WHERE cost_usd > 0 ORDER BY billed_at DESC LIMIT 100)"
    ).fetchone()[0]
    return float(mean) if mean is not None else usual


async def _folder(
    folder: "FolderConfig",
    config: "Config",
    db: sqlite3.Connection | None,
    pictures: VipsPictures,
    price: float,
    seen: set[str],
) -> tuple[int, int]:
    """Print what one folder holds; returns how many jobs would be paid for, and with how many runs."""
    inbox = DiskInbox(folder.inbox, Selection(folder.include, folder.exclude), recursive=folder.recursive)
    rows = db.execute(KNOWN, (bytes(folder.inbox),)).fetchall() if db is not None else []
    try:
        scan = await inbox.scan({mark(path, Look(*rest)) for path, *rest in rows})
        skipped: list[tuple[bytes, str]] = []
        counts: Counter[str] = Counter()
        pixels = 0
        for path, look in scan.found:
            try:
                async with inbox.open(path, look) as source:
                    reading = await pictures.read(source)
            except Fault as fault:
                skipped.append((path, fault.said))
                continue
            found = admission.parts(
                reading.content,
                folder.scale,
                config.api.pixels_max,
                oversize=folder.oversize,
                overlap=folder.overlap,
            )
            job = folder.recipe.job_id(reading.content.sha256)
            if reading.sign is not None and not reading.content.format:
                skipped.append((path, reading.reason))
            elif admission.is_large_enough(reading.content, folder.skip_above):
                skipped.append((path, "It is as large as skip_above asks for; the outbox gets a copy of it."))
            elif isinstance(found, Fault):
                skipped.append((path, found.said))
            elif job in seen or _is_known(db, job):
                skipped.append((path, "The same content is paid for once."))
            else:
                seen.add(job)
                counts["new"] += 1
                counts["runs"] += len(found)
                pixels += reading.content.pixels
    finally:
        inbox.close()
    print(f"{folder.inbox}: {scan.files} files, {scan.files - len(scan.found)} known already,")
    print(f"  {counts['new']} to upscale, {pixels / 1e6:.1f} megapixels, about {counts['runs'] * price:.2f} USD")
    for path, reason in skipped[:LISTED_MAX]:
        print(f"  skipped: {shown(path)}: {reason}")
    if len(skipped) > LISTED_MAX:
        print(f"  skipped: {len(skipped) - LISTED_MAX} more")
    return counts["new"], counts["runs"]


def _is_known(db: sqlite3.Connection | None, job: str) -> bool:
    return db is not None and db.execute("SELECT 1 FROM job WHERE id = ?", (job,)).fetchone() is not None
