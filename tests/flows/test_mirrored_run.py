"""A run with a mirror, killed while it pushes, goes on from the mirror on another machine with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.compose import PROJECT
from storage.lineage import open_run
from storage.mirror.index import INDEX
from storage.mirror.pull import pull
from tests.storage.s3_server import S3Server, s3_server
from tests.waiting import limit

pytestmark = pytest.mark.slow


def words(policy: Path, prompts: Path, runs: Path, *more: str) -> list[str]:
    return [
        "name=small", f"runs={runs}", f"policy={policy}", f"prompts={prompts}", "panel=rules", "evaluation=plain",
        "engine=transformers", "training=small", "training.epochs=1", "sampling.max_tokens=12", "prompts.per_round=16",
        "prompts.heldout=0.2", "preferences.drop_truncated=false", "rounds=2", *more,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.iterate", *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def play(arguments: list[str]) -> str:
    process = start(arguments)
    output, _ = process.communicate(timeout=limit(300))
    assert process.returncode == 0, output
    return output


def contents(run: Path) -> dict[str, str]:
    """The content digest of every stage, by folder."""
    return {name: stage.manifest.content for name, stage in open_run(run).stages.items()}


def kill_mid_push(process: subprocess.Popen[str], server: S3Server, prefix: str) -> None:
    """Kill the run when the mirror has a stage of round 1, and a push of another one is likely under way."""
    deadline = time.monotonic() + limit(300)
    while not any(path.startswith("round-01/") for path in server.objects(prefix)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_run_killed_mid_push_goes_on_elsewhere_with_the_same_bytes(tiny_policy: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) + "\n" for i in range(40)))
    play(words(tiny_policy, prompts, tmp_path / "undisturbed"))
    with s3_server() as server:
        mirror = ["storage.mirror=s3://runs/mine", f"storage.endpoint_override={server.endpoint}"]
        kill_mid_push(start(words(tiny_policy, prompts, tmp_path / "first", *mirror)), server, "mine")
        assert INDEX in server.objects("mine")
        pull(server.store("mine"), tmp_path / "second" / "small")
        keep = "storage.keep_policies=promoted"
        output = play(words(tiny_policy, prompts, tmp_path / "second", *mirror, keep))
        assert contents(tmp_path / "second" / "small") == contents(tmp_path / "undisturbed" / "small")
        assert "the mirror keeps it" in output
        rounds = json.loads((tmp_path / "second" / "small" / "rounds.json").read_text())
        assert rounds[1]["freed"] > 0

        third = tmp_path / "third" / "small"
        done = pull(server.store("mine"), third)
        assert done.removed == ["round-01/train"]
        assert (third / "policy").resolve() == third / "round-02" / "train" / "policy"
        play(words(tiny_policy, prompts, tmp_path / "third", "rounds=3"))
        assert contents(third).items() >= contents(tmp_path / "undisturbed" / "small").items()

    # Without the server, the same run is refused before anything is sampled.
    process = start(words(tiny_policy, prompts, tmp_path / "second", *mirror, "rounds=3"))
    output, _ = process.communicate(timeout=limit(120))
    assert process.returncode == 2
    assert "the store does not answer" in output
