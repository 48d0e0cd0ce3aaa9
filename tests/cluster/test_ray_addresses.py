"""The ways to name a Ray cluster that is there already: auto, host:port, and ray:// for a driver outside of it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.operations.temporary_server import free_port
from tasks.cluster.local import KEEP_LOOPBACK, OWN_PRIORITY, credentials
from tasks.cluster_settings import ClusterSettings
from tasks.engines import open_engine
from tasks.generation.stage import run
from tests import skips
from tests.cluster.conftest import MakeSpec
from tests.cluster.echo_engine import EchoEngine, EchoSettings
from tests.waiting import limit

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason=skips.NO_RAY)]

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A cluster of one machine, as `ray start --head` makes it: its addresses."""
    folder = tempfile.mkdtemp(prefix="irepo-ray-")  # short: sockets allow 107 characters
    os.environ |= KEEP_LOOPBACK | credentials()  # before Ray is imported
    environment = dict(os.environ) | OWN_PRIORITY | {"RAY_USAGE_STATS_ENABLED": "0"}
    port, client = free_port(), free_port()
    command = [
        str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}",
        f"--ray-client-server-port={client}", "--num-cpus=2", "--include-dashboard=false",
        "--object-store-memory=100000000", "--disable-usage-stats",
    ]  # fmt: skip
    log = Path(folder) / "start.log"
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = limit(120)
        subprocess.run(
            [sys.executable, "-c", f"import ray; ray.init('127.0.0.1:{port}')"],
            env=environment, timeout=deadline, check=True, capture_output=True,
        )  # fmt: skip
        yield {"auto": f"127.0.0.1:{port}", "named": f"127.0.0.1:{port}", "client": f"ray://127.0.0.1:{client}"}
    finally:
        started.terminate()
        started.wait(timeout=limit(60))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("way", ["auto", "named", "client"])
def test_two_workers_publish_the_bytes_of_one_engine(
    make_spec: MakeSpec, head: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    plain = make_spec("plain")
    run(plain, engine=EchoEngine(EchoSettings()))
    if way == "auto":
        monkeypatch.setenv("RAY_ADDRESS", head["auto"])
    address = "auto" if way == "auto" else head[way]
    cluster = ClusterSettings(kind="ray", address=address, cpus_per_worker=0.5, place_timeout=180)
    settings = EchoSettings.model_validate({"folder": tmp_path, "seconds": 0.2, "workers": 2, "waits_for": 2})
    engines = open_engine(settings, cluster, trust_remote_code=False)
    try:
        engines.check(tmp_path)
        spec = make_spec(way, cluster)
        run(spec, engine=engines)
    finally:
        engines.close()
    names = sorted(path.name for path in plain.folder.glob("responses-*.parquet"))
    assert len(names) == 8
    for name in names:
        assert (spec.folder / name).read_bytes() == (plain.folder / name).read_bytes()
