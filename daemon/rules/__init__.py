"""Decide: pure code. No I/O, no clock, no dice; the same question always has the same answer."""
