"""Whether a round helped: win rates, divergence, length, rates."""
