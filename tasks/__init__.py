"""The four Prefect tasks (generate, label, train, evaluate) and, below them, the rooms that do the work."""

from tasks import interrupts

if interrupts.is_command():
    interrupts.leave_on_interrupt()
