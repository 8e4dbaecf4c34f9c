"""The local prediction server."""
