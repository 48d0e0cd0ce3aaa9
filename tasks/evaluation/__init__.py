"""Whether a round improved the policy: win rates, divergence, length, rates, benchmarks, and the gate."""
