"""An engineer who comes from TRL: from a preference file to a trained, evaluated, exported policy that one can talk to.

Every command is typed as she types it. Checked is what she sees: output, exit codes, and that there is no traceback.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from conf.compose import PROJECT
from tests.waiting import limit

pytestmark = pytest.mark.slow


class Shell:
    """Runs commands as a user does, and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, typed: str = "", code: int = 0) -> str:
        """Standard output and error of `python -m words`. Asserts its exit code, and that there is no traceback."""
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=PROJECT, capture_output=True, text=True, timeout=limit(600),
            env=environment, input=typed,
        )  # fmt: skip
        text = done.stdout + done.stderr
        assert done.returncode == code, text
        assert "Traceback" not in text
        return text


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_from_a_preference_file_to_a_policy_in_use(shell: Shell, tiny_policy: Path, tmp_path: Path) -> None:
    data, runs = tmp_path / "pairs.jsonl", tmp_path / "runs"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {i}"}],
            "chosen": [{"role": "assistant", "content": f"{i} it is"}],
            "rejected": [{"role": "assistant", "content": "no " * (i % 4 + 1)}],
        }
        for i in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    # She tries what she knows from TRL, and is told the words.
    assert "data=<file, folder or hub id>" in shell("flows.train", "--help")
    refused = shell("flows.train", f"model_name_or_path={tiny_policy}", f"data={data}", code=2)
    assert "policy=<folder or id>" in refused
    assert "training.learning_rate=<rate>" in shell("flows.train", "--learning_rate", "1e-4", code=2)
    small = ["engine=transformers", "training=small", "training.device=cpu", "sampling.max_tokens=8", f"runs={runs}"]
    words = [f"policy={tiny_policy}", f"data={data}", "objective=dpo", "name=mine", *small]
    broken = tmp_path / "broken.jsonl"
    broken.write_text(data.read_text() + '{"prompt": "Say", "chosen": "yes"}\n')
    assert f"{broken}:31" in shell(
        "flows.train", f"policy={tiny_policy}", f"data={broken}", "name=mine", *small, code=2
    )

    # It trains, says what it read and how it went, and what can be done next.
    printed = shell("flows.train", *words)
    assert "preference set: 30 pairs read, 30 kept" in printed
    assert re.search(r"KL to initial \(nats\)\s+0\.00", printed)
    run = runs / "mine"
    for command in (f"flows.chat {run}", f"flows.export {run}", "flows.iterate name=<name>"):
        assert command in printed
    assert (run / "report.html").is_file()
    assert "`dpo`" in (run / "round-01/train/policy/README.md").read_text(encoding="utf-8")
    assert "30 pairs read" in shell("flows.train", *words), "the same command finds everything finished"

    # She looks, talks, votes, and takes the policy along.
    assert re.search(r"mine\s+finished\s+1/1", shell("flows.runs", "--runs", str(runs)))
    talked = shell("flows.chat", str(run), "--against", "initial", typed="Say 3\na\n/quit\n")
    assert "a: mine, round 1" in talked
    assert "kept in" in talked or "no vote is kept" in talked
    assert "did you mean" in shell("flows.chat", str(runs / "mime"), code=2)
    shell("flows.export", str(run), str(tmp_path / "half"), "--dtype", "bfloat16")
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype) == "torch.bfloat16"
    assert "training=lora" in shell("flows.export", str(run), str(tmp_path / "adapter"), "--adapter", code=2)
    assert "--yes" in shell("flows.runs", "--runs", str(runs), "rm", "mine", code=2)
