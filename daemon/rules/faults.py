"""
Faults: expected failures, each with who is to blame and whether waiting helps.

The blame picks the scope of the reaction. A picture's fault fails that picture. A service's or a house's fault fails
nothing: it closes a gate for all who need what is broken, and the pictures keep their places.
"""

from enum import StrEnum


class Blame(StrEnum):
    """Whose failure it is."""

    PICTURE = "picture"  # undecodable, refused by the model
    SERVICE = "service"  # the prediction API or the storage
    HOUSE = "house"  # our own disks, folders, ledger


class Outlook(StrEnum):
    """Whether waiting helps."""

    PASSING = "passing"  # by itself
    LASTING = "lasting"  # only when a person does something


class Gate(StrEnum):
    """What stands still for everybody while it is closed."""

    API = "api"  # paid creates
    POLL = "poll"  # questions about predictions
    HISTORY = "history"  # looks for submits in doubt; nobody waits at it, it is there to be told once
    STORAGE = "storage"  # uploads
    FETCH = "fetch"  # downloads of results
    STAGING = "staging"  # the state directory's disk
    OUTBOX = "outbox"  # an outbox's disk
    ROOM = "room"  # paid creates whose result would have no place to go


class Created(StrEnum):
    """What is known of a create that failed: the one question that money hangs on."""

    NO = "no"  # provably nothing was created
    MAYBE = "maybe"  # it may exist, and be billed


class Fault(Exception):
    """An expected failure.

    said: a whole sentence for a person, free of secrets and of URLs with a query.
    remedy: what a person can do, a sentence, or "".
    gate: the gate to close, or None where only this picture is concerned.
    retry_after: seconds the other side asked us to wait, or None.
    created: for a create alone. rate_limited: too much was asked of the service; only silence helps.
    """

    def __init__(
        self,
        said: str,
        *,
        blame: Blame,
        outlook: Outlook = Outlook.PASSING,
        remedy: str = "",
        gate: Gate | None = None,
        retry_after: float | None = None,
        created: Created = Created.NO,
        rate_limited: bool = False,
    ) -> None:
        super().__init__(said)
        self.said = said
        self.blame = blame
        self.outlook = outlook
        self.remedy = remedy
        self.gate = gate
        self.retry_after = retry_after
        self.created = created
        self.rate_limited = rate_limited


class Expired(Fault):
    """The result's link is gone; the API can be asked for a fresh one."""

    def __init__(self, said: str) -> None:
        super().__init__(said, blame=Blame.SERVICE)


class Unknown(Fault):
    """The API does not know the prediction id that it gave us."""

    def __init__(self, said: str) -> None:
        super().__init__(said, blame=Blame.SERVICE)


class NotAPicture(Fault):
    """Bytes that were to be a whole picture are not; for a file that is still being written this may pass."""

    def __init__(self, said: str, remedy: str = "") -> None:
        super().__init__(said, blame=Blame.PICTURE, outlook=Outlook.LASTING, remedy=remedy)


class Unlike(NotAPicture):
    """A whole picture, but not the one that was asked for."""


class Changed(Fault):
    """The source is not what it was when it was admitted."""

    def __init__(self, said: str) -> None:
        super().__init__(said, blame=Blame.PICTURE)


class Vanished(Fault):
    """The source is no longer in its inbox, and the inbox itself is there."""

    def __init__(self, said: str) -> None:
        super().__init__(said, blame=Blame.PICTURE)


class LedgerBroken(Fault):
    """The ledger cannot record; without a record nothing may move, so the program ends."""

    def __init__(self, said: str, remedy: str = "") -> None:
        super().__init__(said, blame=Blame.HOUSE, outlook=Outlook.LASTING, remedy=remedy)
