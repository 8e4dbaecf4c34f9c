"""What a benchmark says: figures, each beside what it is compared with in the same run."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of the table. value: a ratio wherever there is something to compare with.

    against: what 1.0 would be, or what stands beside it. aim: in words, as the table shows it. met: whether the aim is
    met; None where the short form makes the figure meaningless. detail: what the value was made from.
    """

    name: str
    value: float
    unit: str
    against: str
    aim: str
    met: bool | None
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
