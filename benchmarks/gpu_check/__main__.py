"""Check a GPU: `python -m benchmarks.gpu_check`, or `make gpu-check`.

    python -m benchmarks.gpu_check --device cpu --tiny   # the same path on a CPU, with a tiny policy and transformers

First `python -m benchmarks.gpu`, which checks and measures training. Then one round of `flows.iterate` with a random
policy of 0.5 billion weights: vLLM, its sleep, a training process and an evaluation. The verdict is printed and written
to <out>/verdict.md. Exit code 0: everything holds; 1: something does not; 2: there is no GPU here.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu_check.policy import PROMPTS, build_random_policy, write_prompts
from benchmarks.gpu_check.verdict import Finding, examine, verdict

ROOT = Path(__file__).resolve().parents[2]
NAME = "gpu-check"


def main(words: list[str]) -> int:
    options = _options(words)
    if options.device == "cuda" and not _has_gpu():
        print("there is no GPU here: torch finds no CUDA device. To try the path itself: --device cpu --tiny")
        return 2
    out = Path(options.out or tempfile.mkdtemp(prefix="irepo-gpu-check-"))
    out.mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    if not options.round_only:
        findings.append(_benchmark(options.device, tiny=options.tiny, log=out / "benchmark.log"))
    code = play(out, device=options.device, tiny=options.tiny)
    findings += examine(out / NAME, code, gpu=options.device == "cuda")
    text = verdict(findings, device=options.device, tiny=options.tiny)
    (out / "verdict.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"logs: {out}")
    return 0 if all(finding.holds for finding in findings) else 1


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny policy, to try the script itself")
    parser.add_argument("--round-only", action="store_true", help="leave out benchmarks.gpu")
    parser.add_argument("--out", help="folder of the run, its logs and the verdict; default: a temporary one")
    return parser.parse_args(words)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _benchmark(device: str, *, tiny: bool, log: Path) -> Finding:
    """`benchmarks.gpu`, whose exit code says whether what it promises holds."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", device, *(["--tiny"] if tiny else [])]
    print(f"python -m benchmarks.gpu (up to ten minutes; {log})", flush=True)
    code = _logged(command, log)
    return Finding("benchmarks.gpu", code == 0, f"exit code {code}; see {log.name}")


def play(out: Path, *, device: str, tiny: bool) -> int:
    """One round in `out`/gpu-check. Returns the exit code of the command."""
    policy = build_random_policy(out / "policy", tiny=tiny)
    prompts = write_prompts(out / "prompts.jsonl")
    words = [
        f"name={NAME}", f"runs={out}", f"policy={policy}", f"prompts={prompts}", "panel=rules", "evaluation=plain",
        "panel.annotators.concision.tie_margin=0", "rounds=1", "prompts.heldout=0.25", "prompts.per_round=null",
        "sampling.max_tokens=64", "engine.max_model_len=256", f"engine.shard_prompts={PROMPTS}",
        "preferences.drop_truncated=false", "training.learning_rate=1e-5", "training.prompts_per_step=4",
        "training.microbatch_tokens=2048",
    ]  # fmt: skip
    if device == "cpu":
        words += ["engine=transformers", "training.device=cpu", "training.dtype=float32"]
    print(f"one round of {'a tiny' if tiny else 'a random'} policy ({out / 'round.log'})", flush=True)
    return _logged([sys.executable, "-m", "flows.iterate", *words], out / "round.log")


def _logged(command: list[str], log: Path) -> int:
    with open(log, "wb") as stream:
        return subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
