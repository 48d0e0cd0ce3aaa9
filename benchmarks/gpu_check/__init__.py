"""Does irepo work on this GPU? Measurements, then one whole round, and a verdict to paste into an issue."""
