"""How a figure stands to its aim, which is written in words: `>= 0.95`, `at most 8 GETs`."""

import re

AIM = re.compile(r"(>=|<=|at least|at most)\s*([0-9]+(?:\.[0-9]+)?)")
RATIO_MAX = 1e9


def ratio(value: float, aim: str) -> float | None:
    """The value over its aim, or the aim over the value where less is better; None where no number is aimed at."""
    found = AIM.search(aim)
    if found is None:
        return None
    wanted = float(found[2])
    over, under = (value, wanted) if found[1] in (">=", "at least") else (wanted, value)
    if under <= 0:
        return RATIO_MAX  # None of what there should be none of.
    return over / under


def is_met(value: float, aim: str) -> bool:
    reached = ratio(value, aim)
    assert reached is not None, aim
    return reached >= 1.0
