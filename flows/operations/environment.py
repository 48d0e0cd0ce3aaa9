"""Settings that Prefect and vLLM read from the environment at import. Import this module first."""

import os
import sys
from pathlib import Path

from flows.operations.secret import give_secret_to_client
from storage.errors import UserError
from tasks.loopback import bypass_proxies

PROJECT = Path(__file__).resolve().parents[2]

_DEFAULTS = {
    # Prefect 3.7 keeps results in ~/.prefect/storage even when PREFECT_HOME moves; keep them with the project.
    "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(PROJECT / ".prefect" / "results"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLI_PROMPT": "false",
    # A loaded machine needs longer than the default 20 s to start the temporary server.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # A flow sends a heartbeat every 30 s, which distinguishes a dead run from a long one.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # Leases survive a restart of the server.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Within seconds of the end of a dead holder's lease its slot is free and a waiting run takes it.
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "5",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP threads that spin while they wait would take cores from the engine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def prepare() -> None:
    """Set the variables that the user has not set; see also `bypass_proxies` and `give_secret_to_client`.

    A secret that cannot be used ends the process with code 2 and the reason.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    bypass_proxies()
    try:
        give_secret_to_client()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def check_prefect_settings() -> None:
    """Raises UserError for a variable or a profile that Prefect does not accept. Imports Prefect's settings."""
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        get_current_settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = sorted(name for name in os.environ if name.startswith("PREFECT_") and name not in _DEFAULTS)
        raise UserError(
            f"Prefect does not accept a setting: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            where=", ".join(names) or "Prefect's profile (prefect profile inspect)",
            remedy="correct the variable or the profile's line, or unset it",
        ) from None


def quiet_console() -> None:
    """Keep Prefect's log off the terminal of a command that shows its own progress. A server still receives it."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
