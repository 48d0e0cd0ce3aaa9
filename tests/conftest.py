"""Fixtures shared by all rooms: tiny random policies, built on the spot (no download)."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.tiny import build_policy
from tests import scheduling, skips
from tests.plugin_files import package  # noqa: F401  (a fixture)

# Before torch is imported, here and in child processes. The models are too small for more than one thread, and
# threads that wait by spinning slow every other process on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before Prefect is imported: a test that asks for a server without having one fails at once. Prefect would start one,
# which takes seconds, and keep it and its threads until the process ends.
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")

# A shell that starts the suite in the background has it ignore Ctrl-C, and every child process would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MakePolicy = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(skips)
    config.pluginmanager.register(scheduling)


def pytest_collection_finish() -> None:
    """Python's collector need not look again and again at what the imports of all tests made."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Extension modules warn at the end about what was not collected."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def make_policy(tmp_path_factory: pytest.TempPathFactory) -> MakePolicy:
    """Builds (and remembers) the tiny policy of a seed: `make_policy(seed=1, tied=True) -> folder`."""
    made: dict[tuple[int, bool], Path] = {}

    def make(*, seed: int = 0, tied: bool = True) -> Path:
        if (seed, tied) not in made:
            name = f"policy-{seed}-{'tied' if tied else 'untied'}"
            made[seed, tied] = build_policy(tmp_path_factory.mktemp("policies") / name, seed=seed, tied=tied)
        return made[seed, tied]

    return make


@pytest.fixture(scope="session")
def tiny_policy(make_policy: MakePolicy) -> Path:
    """Folder of a tiny random Llama with tied embeddings. Shared by all tests: never write into it."""
    return make_policy(seed=0, tied=True)


@pytest.fixture(scope="session")
def tiny_policy_untied(make_policy: MakePolicy) -> Path:
    """As `tiny_policy`, with a head of its own."""
    return make_policy(seed=0, tied=False)
