"""
Settings of the local prediction server: where it keeps its state, whom it serves, and every limit it has.

A value that cannot be meant is an `AssertionError`; people's configuration is checked before it gets here.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServerSettings:
    """All of them; the defaults are the hosted service's."""

    # All state: predictions, uploads, results. One process at a time; made with mode 0700.
    data_dir: Path

    # What clients must show. There is one, so a limit per key is a limit on the whole server.
    key: str = field(repr=False)

    # More creates than this in any sliding minute are refused with 429.
    creates_per_minute_max: int = 100

    # More predictions than this that are not over are refused with 429.
    in_flight_max: int = 10

    # How many predictions run at the same time.
    workers: int = 1

    # A prediction takes at least this long: for tests and demonstrations.
    predict_seconds_min: float = 0.0

    # Larger inputs end in the error that the hosted model gives.
    pixels_max: int = 2_096_704

    # The price of a second of prediction. At 0 nothing is billed, and every prediction says so.
    usd_per_second: float = 0.0

    # The largest input, uploaded or fetched.
    bytes_max: int = 100_000_000

    # How long a presigned upload URL can be used.
    put_seconds: float = 900.0

    # How long a result can be fetched, at least.
    output_seconds: float = 86_400.0

    # How long a prediction that is over can be asked for.
    prediction_seconds: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        assert self.key, "the server needs a key"
        assert min(self.creates_per_minute_max, self.in_flight_max, self.workers, self.pixels_max, self.bytes_max) > 0
        assert min(self.predict_seconds_min, self.usd_per_second) >= 0
