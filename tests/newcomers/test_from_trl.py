"""An engineer who comes from TRL: from a preference file to a trained, evaluated, exported policy that one can talk to.

Every command is typed as she types it. Checked is what she sees: output, exit codes, and that there is no traceback.
"""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.newcomers.shell import run

pytestmark = pytest.mark.slow


def test_from_a_preference_file_to_a_policy_in_use(tiny_policy: Path, tmp_path: Path) -> None:
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
    assert "data=<file, folder or hub id>" in run("flows.train", "--help")
    refused = run("flows.train", f"model_name_or_path={tiny_policy}", f"data={data}", code=2)
    assert "policy=<folder or id>" in refused
    assert "training.learning_rate=<rate>" in run("flows.train", "--learning_rate", "1e-4", code=2)
    small = ["engine=transformers", "training=small", "training.device=cpu", "sampling.max_tokens=8", f"runs={runs}"]
    words = [f"policy={tiny_policy}", f"data={data}", "objective=dpo", "name=mine", *small]
    broken = tmp_path / "broken.jsonl"
    broken.write_text(data.read_text() + '{"prompt": "Say", "chosen": "yes"}\n')
    assert f"{broken}:31" in run("flows.train", f"policy={tiny_policy}", f"data={broken}", "name=mine", *small, code=2)

    # It trains, says what it read and how it went, and what can be done next.
    printed = run("flows.train", *words)
    assert "preference set: 30 pairs read, 30 kept" in printed
    assert re.search(r"KL to initial \(nats\)\s+0\.00", printed)
    folder = runs / "mine"
    for command in (f"flows.chat {folder}", f"flows.export {folder}", "flows.iterate name=<name>"):
        assert command in printed
    assert (folder / "report.html").is_file()
    assert "`dpo`" in (folder / "round-01/train/policy/README.md").read_text(encoding="utf-8")
    assert "30 pairs read" in run("flows.train", *words), "the same command finds everything finished"

    # She looks, talks, votes, and takes the policy along.
    assert re.search(r"mine\s+finished\s+1/1", run("flows.runs", "--runs", str(runs)))
    talked = run("flows.chat", str(folder), "--against", "initial", typed="Say 3\na\n/quit\n")
    assert "a: mine, round 1" in talked
    assert "kept in" in talked or "no vote is kept" in talked
    assert "did you mean" in run("flows.chat", str(runs / "mime"), code=2)
    run("flows.export", str(folder), str(tmp_path / "half"), "--dtype", "bfloat16")
    assert str(AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype) == "torch.bfloat16"
    assert "training=lora" in run("flows.export", str(folder), str(tmp_path / "adapter"), "--adapter", code=2)
    assert "--yes" in run("flows.runs", "--runs", str(runs), "rm", "mine", code=2)
