"""The GPU check: its verdict from a run folder, and the whole path on a CPU with a tiny policy."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check import verdict as verdicts
from benchmarks.gpu_check.verdict import Finding, examine, verdict


class Made:
    """The fields of a Manifest that the verdict reads."""

    seconds = 12.3

    def __init__(self, summary: dict[str, Any]) -> None:
        self.summary = summary


SUMMARIES: dict[str, dict[str, Any]] = {
    "generate": {"sampler_gap_mean": 0.01, "tokens_per_second": 900.0},
    "label": {},
    "train": {"first": {"loss": 1.5}, "last": {"loss": 1.25}},
    "evaluate": {},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder as a finished round on a GPU leaves it."""
    for stage in SUMMARIES:
        (tmp_path / "round-01" / stage).mkdir(parents=True)
    (tmp_path / "round-01/evaluate/metrics.json").write_text(json.dumps({"kl": {"mean": 0.125}}))
    (tmp_path / "round-01/train/train.log").touch()
    (tmp_path / "run.log").write_text("INFO vLLM sleeps: the GPU\nINFO vLLM wakes with the weights of x\n")
    monkeypatch.setattr(verdicts, "read_manifest", lambda folder: Made(SUMMARIES[folder.name]))
    return tmp_path


def failed(findings: list[Finding]) -> list[str]:
    return [finding.promise for finding in findings if not finding.holds]


def test_a_whole_round_passes(run: Path) -> None:
    findings = examine(run, 0, gpu=True)
    assert not failed(findings)
    text = verdict(findings, device="cpu", tiny=True)
    assert text.startswith("irepo gpu-check (cpu, tiny): PASS\n")
    assert "| ok | the engine sleeps and wakes | 1 times, 1 times |" in text
    assert "torch " in text


def test_what_does_not_hold_is_named(run: Path) -> None:
    (run / "run.log").write_text("INFO vLLM sleeps\n")
    (run / "round-01/train/train.log").unlink()
    findings = examine(run, 1, gpu=True)
    assert failed(findings) == [
        "the round finishes",
        "training has a process of its own",
        "the engine sleeps and wakes",
    ]
    assert "FAIL" in verdict(findings, device="cpu", tiny=True)


def test_a_round_that_stopped_names_its_first_missing_stage(tmp_path: Path) -> None:
    findings = examine(tmp_path, 2, gpu=False)
    assert failed(findings)[:2] == ["the round finishes", "stage generate is published"]


def test_without_a_gpu_it_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "_has_gpu", lambda: False)
    assert check.main([]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "there is no GPU here: torch finds no CUDA device. To try the path itself: --device cpu --tiny"
    ]


@pytest.mark.slow
def test_the_path_works_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--device", "cpu", "--tiny", "--round-only", "--out", str(tmp_path)]) == 0
    assert "irepo gpu-check (cpu, tiny): PASS" in capsys.readouterr().out
    assert "| ok | it trains | loss " in (tmp_path / "verdict.md").read_text()
