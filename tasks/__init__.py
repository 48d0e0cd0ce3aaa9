"""The four Prefect tasks (generate, label, train, evaluate) and, below them, the rooms that do the work."""
