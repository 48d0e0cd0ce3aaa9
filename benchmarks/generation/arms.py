"""The arms of the generation benchmark: the generate stage, vLLM alone, transformers' generate."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from conf.compose import PROJECT
from storage.artifact import Artifact
from storage.schemas import PROMPTS, read_parquet
from tasks.generation.encode import check_prompts, request_seed
from tasks.generation.engines import EngineSettings
from tasks.generation.engines.vllm import VllmEngine
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.generation.stage import run
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.modeling.vllm_process import environment, memory_options
from tasks.processes import end_group, start_group


@dataclass
class Arm:
    """Tokens a second of every repetition, by the wall clock and by the CPU clock of all processes of the arm."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, tokens: int, wall: float, cpu: float) -> None:
        self.wall.append(tokens / wall)
        self.cpu.append(tokens / cpu)


@dataclass(frozen=True)
class Work:
    """The same prompts and sampling for all arms."""

    policy: Path
    prompts: Path  # storage.schemas.PROMPTS
    engine: EngineSettings
    sampling: SamplingSettings

    def spec(self, folder: Path) -> GenerateSpec:
        return GenerateSpec(
            folder=folder,
            round=1,
            seed=0,
            settings=GenerationSettings(sampling=self.sampling, engine=self.engine),
            policy=Artifact.of(self.policy),
            prompts=Artifact.of(self.prompts),
        )

    def encoded(self) -> list[list[int]]:
        table = read_parquet(self.prompts, PROMPTS)
        longest = self.engine.max_model_len or 0
        return check_prompts(table, load_tokenizer(self.policy), longest, self.sampling.max_tokens)


class Stage:
    """The generate stage, with an engine that stays."""

    def __init__(self, work: Work, home: Path, *, engine: VllmEngine | None = None) -> None:
        self._work, self._home = work, home
        self.engine = engine or VllmEngine(work.engine)
        clock = time.monotonic()
        self.engine.load(work.policy)
        self.cold_seconds = time.monotonic() - clock

    def sample(self, into: Arm, _: str = "") -> None:
        folder = self._home / "stage"
        shutil.rmtree(folder, ignore_errors=True)
        wall, cpu = time.monotonic(), _tree()
        manifest = run(self._work.spec(folder), engine=self.engine)
        into.add(manifest.summary["tokens"], time.monotonic() - wall, _tree() - cpu)

    def reload(self, policy: Path, verified: int) -> tuple[float, float]:
        """Seconds until the engine samples from `policy`, and those of checking `verified` responses of it."""
        from tasks.generation.engines import Request
        from tasks.generation.verify import Scored, measure_gap, refuse_mismatch
        from tasks.modeling.logprobs import TokenSequence

        clock = time.monotonic()
        self.engine.load(policy)
        loaded = time.monotonic()
        requests = [Request(ids, seed) for seed, ids in enumerate(self._work.encoded()[:verified])]
        encoded = time.monotonic()
        drawn = self.engine.sample(requests, self._work.sampling.model_copy(update={"responses": 1}))
        rows = [
            Scored(TokenSequence(r.prompt_ids, s.token_ids), s.logprobs)
            for r, (s,) in zip(requests, drawn, strict=True)
        ]
        gap = measure_gap(policy, rows, dtype=self._work.engine.dtype)
        refuse_mismatch(gap, policy, dtype=self._work.engine.dtype, tolerance=None)
        return loaded - clock, time.monotonic() - encoded


def _tree() -> float:
    """CPU seconds of this process and its engines."""
    me = psutil.Process()
    engines = [child for child in me.children() if "vllm_worker" in " ".join(child.cmdline())]
    return sum(sum(process.cpu_times()[:2]) for process in [me, *engines])


class Bare:
    """vLLM alone (benchmarks.generation.bare)."""

    def __init__(self, work: Work, home: Path) -> None:
        settings = work.engine
        options: dict[str, Any] = {
            "dtype": settings.dtype, "max_model_len": settings.max_model_len,
            "enforce_eager": settings.enforce_eager, "generation_config": "vllm", "seed": 0,
        } | memory_options(on_cpu=True, kv_cache_gib=settings.kv_cache_gib, gpu_memory_utilization=0.9)  # fmt: skip
        sampling = {
            "n": work.sampling.responses, "temperature": work.sampling.temperature, "detokenize": False,
            "max_tokens": work.sampling.max_tokens, "ignore_eos": True, "stop_token_ids": end_tokens(work.policy),
        }  # fmt: skip
        names = read_parquet(work.prompts, PROMPTS)["prompt_id"].to_pylist()
        seeds = [request_seed(0, 1, name) for name in names]
        file = home / "bare.json"
        file.write_text(
            json.dumps({"options": options, "sampling": sampling, "prompts": work.encoded(), "seeds": seeds})
        )
        with open(home / "bare.log", "wb") as log:
            self._process = start_group(
                [sys.executable, "-m", "benchmarks.generation.bare", str(work.policy), str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=PROJECT,
                env=environment(on_cpu=True, enforce_eager=settings.enforce_eager, tensor_parallel=1),
            )  # fmt: skip

    def sample(self, into: Arm, parameters: str) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{parameters}\n".encode())
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        into.add(found["tokens"], found["wall"], found["cpu"])

    def close(self) -> None:
        end_group(self._process)


def transformers_generate(work: Work, into: Arm, batch: int, prompts: int) -> None:
    """`model.generate` on the first `prompts` prompts, `batch` of them at once, longest first, left-padded."""
    import torch

    model: Any = load_policy(work.policy, dtype=work.engine.dtype, device="cpu")
    rows = sorted(work.encoded()[:prompts], key=len, reverse=True)
    ends = end_tokens(work.policy)
    torch.manual_seed(0)
    tokens = 0
    wall, cpu = time.monotonic(), time.process_time()
    for start in range(0, len(rows), batch):
        tokens += _generated(model, rows[start : start + batch], work.sampling, ends)
    into.add(tokens, time.monotonic() - wall, time.process_time() - cpu)


def _generated(model: Any, rows: Sequence[list[int]], sampling: SamplingSettings, ends: list[int]) -> int:
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[ends[0]] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0,
            num_return_sequences=sampling.responses, max_new_tokens=sampling.max_tokens, eos_token_id=ends,
            pad_token_id=ends[0],
        )[:, width:]  # fmt: skip
    ended = torch.isin(written, torch.tensor(ends))
    first = torch.where(ended.any(1), ended.int().argmax(1) + 1, written.shape[1])
    return int(first.sum())
