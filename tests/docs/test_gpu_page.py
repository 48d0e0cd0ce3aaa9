"""docs/gpu.md has the figures that the memory plan gives."""

from benchmarks.memory_page import PAGE, with_tables


def test_the_tables_are_those_of_the_memory_plan() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == with_tables(text), "write them anew: python -m benchmarks.memory_page"
