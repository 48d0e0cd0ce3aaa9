"""A benchmark's report: tables on the console, figures for its JSON, and which of those that must hold do not."""

from typing import Any

from rich.console import Console

from benchmarks.machine import machine, write_result


class Report:
    def __init__(self, width: int | None = None) -> None:
        self.console = Console(width=width)
        self.result: dict[str, Any] = {}
        self.missed: list[str] = []

    def mark(self, name: str, value: str, good: bool) -> str:
        """`value` as it is shown; remembered when it is not good."""
        if not good:
            self.missed.append(name)
        return value if good else f"[red]{value}[/]"

    def say(self, name: str, value: str, good: bool) -> None:
        self.console.print(f"{name}: {self.mark(name, value, good)}")

    def close(self, benchmark: str, more: dict[str, Any]) -> int:
        """Write the JSON, say where it ran (and `more`) and what missed; returns the exit code."""
        self.console.print(machine() | more)
        path = write_result(benchmark, self.result | {"missed": self.missed})
        self.console.print(f"written: {path}")
        if self.missed:
            self.console.print(f"[red]missed: {', '.join(self.missed)}[/]")
        return 1 if self.missed else 0
