"""Travel: one stage a file, none knows another. A stage asks the world once and returns an event."""
