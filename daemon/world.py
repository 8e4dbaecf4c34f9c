"""
World: what the dispatcher and its parts work with, in two plain bundles. Made by the service, changed by nobody.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from daemon.pipeline.detect import Detector
from daemon.pipeline.write import Writer
from daemon.ports import Clock, Disk, Inbox, Predictor, Storage
from daemon.ports_ledger import Ledger
from daemon.ports_pictures import Pictures

if TYPE_CHECKING:
    from daemon.config_model import FolderConfig


@dataclass(frozen=True, slots=True)
class Folder:
    """A configured folder at work. id: the ledger's number for it."""

    id: int
    config: "FolderConfig"
    inbox: Inbox
    detector: Detector


@dataclass(frozen=True, slots=True)
class World:
    """All that the dispatcher asks of the outside."""

    api: str  # which API and account, without secrets
    clock: Clock
    log: FilteringBoundLogger
    ledger: Ledger
    storage: Storage
    predictor: Predictor
    disk: Disk
    pictures: Pictures
    writer: Writer
