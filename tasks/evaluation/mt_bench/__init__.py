"""MT-Bench: the policy answers questions of two turns, and a judge grades the answers."""
