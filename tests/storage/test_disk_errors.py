"""A full disk, for real (a 1 MiB tmpfs in a namespace of its own), and what libraries say of failed writes."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from storage.disk_errors import disk_faults
from storage.errors import UserError
from tests.skips import NO_MOUNT
from tests.waiting import limit

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = ["unshare", "--map-root-user", "--mount", "bash", "-c"]

FILL = """
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file
from storage.errors import UserError
from storage.files import publish_file, publish_folder
from storage.manifest import MANIFEST
from storage.stage import Outcome, has_part, mark_part, run_stage
from storage.schemas import write_parquet
from storage.artifact import Artifact
from tests.storage.count_stage import CountSettings, CountSpec

source = Artifact(path=Path("a"), digest="a")
spec = CountSpec(folder=Path(sys.argv[1]), round=1, seed=5, settings=CountSettings(), source=source)
writer = sys.argv[2]

def body():
    part = spec.folder / "part.txt"
    if not has_part(spec, part):
        publish_file(part, lambda path: path.write_text("kept"))
        mark_part(spec, part)
    big = spec.folder / "big"
    if (spec.folder.parent / "room").exists():
        publish_file(big, lambda path: path.write_text("fits"))
    elif writer == "parquet":
        write_parquet(big, pa.table({"x": np.random.default_rng(0).random(1_000_000)}))
    elif writer == "safetensors":
        with publish_folder(big) as temporary:
            save_file({"x": np.ones(1_000_000)}, temporary / "x.safetensors")
    else:
        publish_file(big, lambda path: path.write_bytes(b"x" * 4_000_000))
    return Outcome(paths=[part, big])

try:
    run_stage(spec, body)
    print("no error")
except UserError as error:
    print(error)
assert not (spec.folder / MANIFEST).exists()
print("left:", sorted(path.name for path in spec.folder.iterdir()))
changed = (spec.folder / "part.txt").stat().st_mtime_ns
(spec.folder.parent / "room").touch()
print("then:", [entry.path for entry in run_stage(spec, body).files])
assert (spec.folder / "part.txt").stat().st_mtime_ns == changed
"""


def can_mount() -> bool:
    probe = "mkdir -p /tmp/.irepo-probe && mount -t tmpfs tmpfs /tmp/.irepo-probe"
    try:
        return subprocess.run([*NAMESPACE, probe], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason=NO_MOUNT)
@pytest.mark.parametrize("writer", ["plain", "parquet", "safetensors"])
def test_a_full_disk_is_a_clear_error_and_the_stage_goes_on_when_there_is_room(writer: str, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec "$@"'
    done = subprocess.run(
        [*NAMESPACE, script, "-", sys.executable, "-c", FILL, str(tmp_path / "stage"), writer],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit(120),
    )
    assert done.returncode == 0, done.stderr
    assert "the disk is full: " in done.stdout
    assert "MiB free" in done.stdout
    assert str(tmp_path / "stage") in done.stdout
    assert "left: ['.part.txt.part.json', 'part.txt', 'spec.yaml']" in done.stdout
    assert "then: ['big', 'part.txt']" in done.stdout


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x/file"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "the file system does not allow writing"),
        (PermissionError(errno.EACCES, "Permission denied"), "the file system does not allow writing"),
    ],
)
def test_what_the_system_says_is_explained(error: OSError, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem) as caught, disk_faults(tmp_path):
        raise error
    assert caught.value.where == (error.filename or str(tmp_path))


@pytest.mark.parametrize("error", [ValueError("5 is not 4"), FileNotFoundError(errno.ENOENT, "absent"), OSError("odd")])
def test_other_errors_are_left_alone(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, disk_faults(tmp_path):
        raise error
    assert caught.value is error
