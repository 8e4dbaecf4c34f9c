"""
Exit statuses: what the program tells the one who started it. systemd/esrgand.service repeats them, and a test compares.
"""

from enum import IntEnum


class Exit(IntEnum):
    """How the program ended."""

    DONE = 0  # All that was asked for is done.
    HOUSE = 1  # Our own disks, folders, ledger or network failed; trying again may help.
    PICTURES = 3  # The program did its work, and some pictures failed or are held.
    USAGE = 64  # The command line is wrong (sysexits.h: EX_USAGE); trying again does not help.
    CONFIG = 78  # The configuration is wrong (EX_CONFIG); trying again does not help.


class AtOnce(Exception):
    """The end was asked for twice: nothing is waited for any more. status: how the program ended all the same."""

    def __init__(self, status: Exit) -> None:
        super().__init__(status)
        self.status = status
