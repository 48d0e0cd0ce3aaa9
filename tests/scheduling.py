"""How `make test` deals files to its processes: the long ones first, and files that share a server to the same process.

A file is dealt as a whole, in the order in which tests are collected. A long one at the end would run alone.
"""

from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]

#: Files that take more than twenty seconds, the longest ones first (`--durations=0` shows them). Need not be exact.
LONG = (
    "tests/flows/test_serve.py",
    "tests/flows/test_ui.py",
    "tests/flows/test_run_log.py",
    "tests/flows/test_iterate.py",
    "tests/flows/test_interrupts.py",
    "tests/golden/test_rounds.py",
    "tests/generation/test_vllm_engine.py",
    "tests/training/test_resume.py",
    "tests/training/test_launch.py",
    "tests/flows/test_overwrite.py",
    "tests/evaluation/test_harness.py",
    "tests/storage/test_mirror.py",
    "tests/panel/test_humans_page.py",
    "tests/training/test_sharded.py",
    "tests/flows/test_recipes.py",
    "tests/golden/test_plans.py",
    "tests/flows/test_report_answers.py",
    "tests/flows/test_retention.py",
    "tests/cluster/test_crew_without_ray.py",
    "tests/flows/test_serve_signals.py",
    "tests/reporting/test_report.py",
    "tests/panel/test_humans_looks.py",
    "tests/panel/test_held_in_memory.py",
    "tests/flows/test_report_page.py",
    "tests/flows/test_plan.py",
)
#: A file, and the one whose process it runs in: they use one server, that of the fixture `served`.
BESIDE = dict.fromkeys(("tests/flows/test_ui.py", "tests/flows/test_run_log.py"), "tests/flows/test_serve.py")


class FilesTogether(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """A file at a time to each process; files that belong together as one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return BESIDE.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesTogether | None:
    """In place of pytest-xdist's own for `--dist loadfile`."""
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {ROOT / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))
