"""What runs when: Prefect flows over the four tasks."""

import tasks  # noqa: F401  (from here on, Ctrl-C ends a command with one line)
