"""Touch: the only code that meets the outside. Foreign exceptions end here, as faults."""
