"""Settings that Prefect and vLLM read from the environment as they are imported. Import this first."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

_DEFAULTS = {
    # Prefect 3.7 keeps results in ~/.prefect/storage even when PREFECT_HOME moves; keep them with the project.
    "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(PROJECT / ".prefect" / "results"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    # The temporary server of a run without one: slow machines need longer than the default 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # A flow tells that it lives every 30 s, so that a dead one can be told from a long one.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Who holds the device is known to a server that was started again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # A dead holder's slot is free, and a waiting run asks for it, within seconds of the lease's end.
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "5",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP threads that spin while they wait take the cores from the engine beside them.
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def prepare() -> None:
    """Set what the user has not set."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def quiet_console() -> None:
    """Keep Prefect's log off the terminal of a command that draws its own progress; a server still gets it all."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
