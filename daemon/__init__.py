"""esrgand: a hot folder with a super-resolution service behind it."""

__version__ = "0.1.0"
