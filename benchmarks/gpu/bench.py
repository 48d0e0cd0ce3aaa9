"""What every section measures with: random models of Qwen2's shapes, prompts of realistic lengths, clock and memory."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.training.world import build_groups
from tasks.training.groups import PromptGroup
from tasks.training.packing import packed_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Value = str | int | float
#: One line of a section's table: figure -> value.
Row = dict[str, Value]


class Shape(NamedTuple):
    """A decoder with grouped queries, a gated MLP and tied embeddings."""

    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int


SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151936),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151936),
    "tiny": Shape(32, 64, 1, 4, 2, 512),
}
#: Dense bfloat16 FLOP/s that vendors state, by a part of the card's name; the first that fits counts.
NOMINAL = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass
class Bench:
    """Where to measure. `tiny`: the smallest models and data, to try the benchmark itself."""

    device: str
    tiny: bool
    end: float  # time.monotonic() after which no further arm starts

    @property
    def names(self) -> list[str]:
        """The shapes to measure, smallest first."""
        return ["tiny"] if self.tiny else ["0.5B", "1.5B"]

    @cached_property
    def matmul_rate(self) -> float:
        """bfloat16 FLOP/s of a large matrix product here."""
        size = 128 if self.tiny else 8192
        x, y = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * size**3 / self.seconds(lambda: x @ y, repeats=10)

    @property
    def peak(self) -> float:
        """FLOP/s that MFU is a share of: the vendor's figure for a card in NOMINAL, otherwise the measured rate."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else ""
        return next((rate for part, rate in NOMINAL.items() if part in name), self.matmul_rate)

    def model(self, name: str) -> "PreTrainedModel":
        """A random Qwen2 of that shape in float32, whose weights are bfloat16 numbers, as those of a public policy."""
        from transformers import Qwen2Config, Qwen2ForCausalLM

        shape = SHAPES[name]
        config = Qwen2Config(
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            vocab_size=shape.vocabulary,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        with torch.device(self.device):
            model: PreTrainedModel = Qwen2ForCausalLM(config).bfloat16().float().eval()
        return model

    def groups(self, name: str, prompts: int, responses: int) -> list[PromptGroup]:
        """Prompts with all pairs of their responses; two prompts of a tiny model."""
        return build_groups(2 if self.tiny else prompts, responses, SHAPES[name].vocabulary)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device, torch.bfloat16)

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median seconds of `work`, after one call that does not count."""
        work()
        taken = []
        for _ in range(1 if self.tiny else repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return sorted(taken)[len(taken) // 2]

    @contextmanager
    def memory(self) -> Iterator[dict[str, float]]:
        """GiB of the GPU: `before` the body, and at its `peak`; 0 on a CPU."""
        gib = {"before": 0.0, "peak": 0.0}
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            gib["before"] = torch.cuda.memory_allocated() / 2**30
        yield gib
        if self.device == "cuda":
            gib["peak"] = torch.cuda.max_memory_allocated() / 2**30

    def free(self) -> None:
        """Free what models of an earlier arm held."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def mfu(self, name: str, groups: Sequence[PromptGroup], seconds: float) -> float:
        """Model FLOPs utilisation of useful tokens: what one forward and backward of `groups` needs, over the peak.

        Layers count each prompt and response once, the head counts response tokens; attention scores, padding and
        recomputation count nothing.
        """
        shape = SHAPES[name]
        keys = shape.key_heads * shape.width // shape.heads
        layer = 2 * shape.width * (shape.width + keys) + 3 * shape.width * shape.inner
        tokens = sum(map(packed_tokens, groups))
        predicted = sum(len(response) for group in groups for response in group.responses)
        flops = 6.0 * (layer * shape.layers * tokens + shape.width * shape.vocabulary * predicted)
        return flops / seconds / self.peak
