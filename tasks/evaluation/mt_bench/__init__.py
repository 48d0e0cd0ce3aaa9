"""MT-Bench: two-turn questions, answered by the policy and graded by a judge."""
