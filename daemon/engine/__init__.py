"""Real-ESRGAN on this machine: models, how they get here, and the process that runs them. Needs `esrgand[local]`."""
