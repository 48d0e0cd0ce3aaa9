"""One run at a time on a host's device, by a global concurrency limit of Prefect with a lease that a dead run loses."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.operations.temporary_server import TEMPORARY

LEASE_SECONDS = 60  # the least that Prefect's server takes


def device_limit() -> str:
    """Name of this host's limit. Every run on the host takes its single slot."""
    return f"irepo-device-{socket.gethostname()}"


def ensure_limit() -> None:
    """Create this host's limit on the server unless it exists, with whatever number of slots."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(device_limit())
        except ObjectNotFound:
            wanted = GlobalConcurrencyLimitCreate(name=device_limit(), limit=1)
            with suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(wanted)


@contextmanager
def device_held() -> Iterator[None]:
    """Wait for this host's device, and hold it. A holder that is killed loses it within LEASE_SECONDS.

    A run with a temporary server of its own is not counted. When the server is unreachable for longer than a lease,
    the run continues: its work is worth more than the limit.
    """
    if TEMPORARY in os.environ:
        yield
        return
    ensure_limit()
    with concurrency(
        device_limit(), occupy=1, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):
        yield
