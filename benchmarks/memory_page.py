"""The tables of docs/gpu.md that follow from arithmetic: `python -m benchmarks.memory_page` writes them anew.

Between `<!-- name -->` and `<!-- end -->` the page has the table of that name. `tests/docs/test_gpu_page.py` fails when
the page and these figures differ. Nothing is loaded or run.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from conf.compose import CONF, compose_config
from conf.schema import RunConfig
from flows.memory_plan import MemoryPlan, memory_plan, shapes_folder, too_large
from tasks.modeling.device import CardSettings, card_device
from tasks.modeling.shape import Shape

PAGE = Path(__file__).resolve().parents[1] / "docs/gpu.md"
CARDS = (24, 48, 80, 141)  # GB
RUNS = {
    "smollm2 (135 million, all weights)": ("run=smollm2",),
    "phi2 (2.8 billion, all weights)": ("run=phi2",),
    "phi2, LoRA": ("run=phi2", "training=lora"),
    "mistral-7b (LoRA)": ("run=mistral-7b",),
    "mistral-7b, all weights": ("run=mistral-7b", "training=full"),
}
GIB = 1 << 30


def planned(words: Sequence[str], gigabytes: float, count: int = 1) -> MemoryPlan:
    """The memory plan of a preset on `count` cards; with several, one rank of training on each."""
    ranks = [f"training.processes={count}"] if count > 1 else []
    config, shape = _composed((*words, *ranks))
    return memory_plan(config, shape, card_device(CardSettings(memory_gb=gigabytes, count=count)))


@cache
def _composed(words: tuple[str, ...]) -> tuple[RunConfig, Shape]:
    config = compose_config(words)
    folder = shapes_folder(config, CONF / "shapes")
    assert folder is not None, f"{' '.join(words)} names no policy.shape"
    return config, Shape.of_folder(folder)


def fits() -> list[list[str]]:
    """Which preset fits which card."""
    rows = [["run", *(f"{count} x {card} GB" for count in (1, 8) for card in CARDS)]]
    for name, words in RUNS.items():
        cells = []
        for count in (1, 8):
            for card in CARDS:
                stages = [need.stage for need in too_large(planned(words, card, count).needs)]
                cells.append("yes" if not stages else "no: " + ", ".join(stages))
        rows.append([name, *cells])
    return rows


def stages() -> list[list[str]]:
    """GiB of every stage and its parts, on the card that the preset names."""
    rows = [["run", "stage", "GiB", "parts"]]
    cases = [
        (name, words, 1)
        for name, words in RUNS.items()
        if name in ("phi2 (2.8 billion, all weights)", "mistral-7b (LoRA)")
    ]
    cases.append(("mistral-7b, all weights, 8 ranks", RUNS["mistral-7b, all weights"], 8))
    for name, words, count in cases:
        for need in planned(words, 80, count).needs:
            parts = ", ".join(f"{part} {size / GIB:.1f}" for part, size in need.parts.items())
            rows.append([name, need.stage, f"{need.total / GIB:.1f}", parts])
    return rows


@dataclass(frozen=True)
class Assumed:
    """What the estimate of a round assumes. Of one H100 SXM; none of it was measured with irepo."""

    flops: float = 989e12  # a second, bfloat16, dense
    utilization: float = 0.4  # of these, in training and scoring
    bandwidth: float = 3.35e12  # bytes a second
    bandwidth_used: float = 0.5  # of that, while sampling
    together: int = 256  # sequences that the engine samples together
    prompts: int = 20_000
    prompt: int = 200  # tokens
    reply: int = 400  # tokens
    held_out: int = 600  # prompts
    price: float = 2.5  # US dollars for a GPU and hour


def minutes(
    shape: Shape, *, responses: int, trains_weights: bool, recomputes: bool, assumed: Assumed
) -> dict[str, float]:
    """Minutes of the stages of a round on one GPU; label is left out, it depends on the judges' servers."""
    step = (2 * shape.parameters + assumed.together * (assumed.prompt + assumed.reply / 2) * shape.cache_bytes(2)) / (
        assumed.bandwidth * assumed.bandwidth_used
    )
    sampled = (assumed.prompts * responses + assumed.held_out) * assumed.reply
    tokens = assumed.prompts * (assumed.prompt + 2 * assumed.reply)  # best_worst: two responses of each prompt
    # A forward takes 2 operations a weight and token, the gradient of activations 2, that of weights 2.
    per_weight = 2 + 2 + 2 * trains_weights + 2 * recomputes + 2  # the last: the reference's forward
    scored = 2 * assumed.held_out * (assumed.prompt + assumed.reply)
    rate = assumed.flops * assumed.utilization
    return {
        "generate": sampled * step / assumed.together / 60,
        "train": per_weight * shape.parameters * tokens / rate / 60,
        "evaluate": 2 * shape.parameters * scored / rate / 60,
    }


def rounds(assumed: Assumed = Assumed()) -> list[list[str]]:
    """Minutes and US dollars of a round over UltraFeedback's prompts on one H100."""
    rows = [["run", "generate, min", "train, min", "evaluate, min", "a round, min", "three rounds, $"]]
    for name in ("phi2 (2.8 billion, all weights)", "mistral-7b (LoRA)"):
        config, shape = _composed(RUNS[name])
        taken = minutes(
            shape,
            responses=config.sampling.responses,
            trains_weights=config.training.lora is None,
            recomputes=config.training.gradient_checkpointing,
            assumed=assumed,
        )
        total = sum(taken.values())
        cells = [f"{value:.2g}" for value in taken.values()]
        rows.append([name, *cells, f"{total:.0f}", f"{3 * total / 60 * assumed.price:.0f}"])
    return rows


TABLES: dict[str, Callable[[], list[list[str]]]] = {"fits": fits, "stages": stages, "rounds": rounds}


def markdown(rows: list[list[str]]) -> str:
    first, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "|" + "---|" * len(rows[0]), *rest])


def _filled(table: str, place: re.Match[str]) -> str:
    return f"{place[1]}{table}\n{place[2]}"


def with_tables(text: str) -> str:
    """The page with its tables computed anew. Raises ValueError when it has no place for one."""
    for name, build in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"the page has no table {name}")
        text = place.sub(functools.partial(_filled, markdown(build())), text)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
