"""Every method at several strengths on the demo task: ground-truth utility over KL to the initial policy."""
