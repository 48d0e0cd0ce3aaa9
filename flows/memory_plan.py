"""How much memory each stage of a run needs, by part, before anything is loaded; and what to change if it is too much.

Figures follow from config.json, the headers of the weights and the run's settings (`tasks.modeling.shape`,
`tasks.training.memory`). Stages take turns on a device. On a GPU the policy's engine sleeps while others work; on a CPU
it keeps its memory, so it counts in every stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.schema import RunConfig
from tasks.modeling.chunk_size import CPU_CHUNK, ChunkSize, gpu_chunk
from tasks.modeling.device import Device
from tasks.modeling.memory import GIB, ITEM_BYTES, weight_bytes
from tasks.modeling.shape import Shape
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.registry import AnnotatorSettings
from tasks.panel.annotators.reward_model import RewardModelSettings
from tasks.panel.annotators.settings import POLICY_NAMES
from tasks.panel.chat.settings import ChatSettings
from tasks.training.memory import TrainingMemory, forward_bytes, fullest_row, training_memory
from tasks.training.settings import OptimizationSettings

#: Not computed but assumed, because it has not been measured on a GPU: what vLLM takes besides weights and KV cache
#: (its largest forward, logits to sample from, CUDA graphs), and what a sleeping engine and CUDA contexts leave taken.
ENGINE_OVERHEAD, ASLEEP = 3 * GIB, 2 * GIB
CPU_ENGINE_OVERHEAD = GIB  # of the process, measured: 0.9 GiB
PROMPT = 512  # tokens of a prompt in the rows that training is planned for
_SEQUENCES = 64  # that engine=transformers samples together


@dataclass(frozen=True)
class Need:
    """What one stage needs on one device, in bytes by part."""

    stage: str
    parts: dict[str, int]
    available: int
    remedies: tuple[str, ...] = ()  # words of the command line, the first that makes it fit

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.available


@dataclass(frozen=True)
class MemoryPlan:
    """needs: of each stage, in the order of a round. unknown: models that are not on this machine and not counted."""

    device: Device
    needs: tuple[Need, ...]
    unknown: tuple[str, ...] = ()


def memory_plan(config: RunConfig, shape: Shape, device: Device) -> MemoryPlan:
    """The plan of a run with a policy of `shape` on `device`."""
    unknown: list[str] = []
    sampling = _sampling(config, shape, device)
    beside = _beside(config, sampling, device)
    needs = [sampling]
    weights = shape.parameters * ITEM_BYTES[config.engine.dtype]
    check = Need("sampler's check", {**beside, "weights": weights, "forward": weights // 2}, device.memory)
    if device.gpu and config.engine.verify_sequences and check.fits:  # otherwise the CPU does it
        needs.append(check)
    for stage, annotators in (
        ("label", config.panel.annotators),
        ("judge", config.evaluation.judges | config.evaluation.rates),
    ):
        parts = _models(annotators, shape, device, unknown)
        if parts:
            needs.append(Need(stage, {**beside, **parts}, device.memory, _judge_remedies(annotators)))
    if config.training.launcher is None:
        needs.append(_training(config, shape, device, beside))
    needs.append(_evaluation(config, shape, device, beside))
    return MemoryPlan(device, tuple(needs), tuple(dict.fromkeys(unknown)))


def _sampling(config: RunConfig, shape: Shape, device: Device) -> Need:
    """The policy's engine. On a GPU it takes its share of the card, and what is left of that is its KV cache."""
    engine, item = config.engine, ITEM_BYTES[config.engine.dtype]
    gpus = engine.tensor_parallel
    context = engine.max_model_len or shape.context
    weights = shape.parameters * item // (gpus if device.gpu else 1)
    sequence = shape.cache_bytes(item) * context // (gpus if device.gpu else 1)
    if engine.kind != "vllm":
        cache = shape.cache_bytes(item) * _SEQUENCES * config.sampling.max_tokens
        models = 1 if config.objective.needs().mixture is None else 2  # a mixture: the reference too
        parts = {"weights": models * weights, "keys and values": models * cache}
        return Need("generate", parts, device.memory)
    if not device.gpu:
        parts = {
            "weights": weights,
            "KV cache": gpus * int(engine.kv_cache_gib * GIB),
            "process": gpus * CPU_ENGINE_OVERHEAD,
        }
        least = max(1, -(-sequence // GIB))
        fits = parts | {"KV cache": gpus * least * GIB}
        smaller = least < engine.kv_cache_gib and sum(fits.values()) <= device.memory
        return Need("generate", parts, device.memory, (f"engine.kv_cache_gib={least}",) if smaller else ())
    share = int(engine.gpu_memory_utilization * device.whole)
    cache = max(sequence, share - weights - ENGINE_OVERHEAD)
    parts = {"weights": weights, "KV cache": cache, "vLLM": ENGINE_OVERHEAD}
    return Need("generate", parts, share, _engine_remedies(config, shape, device))


def _engine_remedies(config: RunConfig, shape: Shape, device: Device) -> tuple[str, ...]:
    engine, item = config.engine, ITEM_BYTES[config.engine.dtype]
    words = []
    for gpus in (2, 4, 8):
        share = int(engine.gpu_memory_utilization * device.whole)
        if engine.tensor_parallel < gpus <= device.count and shape.parameters * item // gpus + ENGINE_OVERHEAD < share:
            words.append(f"engine.tensor_parallel={gpus}")
    return tuple(words[:1])


def _beside(config: RunConfig, sampling: Need, device: Device) -> dict[str, int]:
    """What the policy's engine holds while another stage works."""
    paused = config.engine.between_stages
    if paused == "auto":
        paused = "sleep" if device.gpu else "keep"
    if paused == "stop" or (config.engine.kind != "vllm" and paused == "sleep"):
        return {}
    if paused == "sleep":
        return {"engine asleep": ASLEEP}
    return {"engine": sampling.total}


def _models(
    annotators: dict[str, AnnotatorSettings], shape: Shape, device: Device, unknown: list[str]
) -> dict[str, int]:
    """Models that annotators load here: vLLM judges all at once, the others one after the other."""
    engines: dict[str, int] = {}
    largest = 0
    for settings in annotators.values():
        if isinstance(settings, ChatSettings) and settings.backend == "vllm":
            key = f"{settings.model} {settings.engine.model_dump_json()}"
            engines[key] = _judge_engine(settings, shape, device, unknown)
        elif isinstance(settings, RewardModelSettings):
            dtype = settings.dtype if settings.dtype != "auto" else ("bfloat16" if device.gpu else "float32")
            largest = max(largest, _model_bytes(settings.path, dtype, shape, unknown))
        elif isinstance(settings, ImplicitRewardSettings):
            both = [
                _model_bytes(path, settings.dtype, shape, unknown) for path in (settings.policy, settings.reference)
            ]
            largest = max(largest, sum(both))
    parts = {"judges' engines": sum(engines.values()), "largest model": largest, "its forward": largest // 4}
    return {name: size for name, size in parts.items() if size}


def _judge_engine(settings: ChatSettings, shape: Shape, device: Device, unknown: list[str]) -> int:
    if device.gpu:
        return int(settings.engine.gpu_memory_utilization * device.whole)
    weights = _model_bytes(settings.model, settings.engine.dtype, shape, unknown)
    return weights + int(settings.engine.kv_cache_gib * GIB) + CPU_ENGINE_OVERHEAD


def _model_bytes(model: str, dtype: str, shape: Shape, unknown: list[str]) -> int:
    if model in POLICY_NAMES:
        return shape.parameters * ITEM_BYTES[dtype]
    folder = Path(model)
    if not any(folder.glob("*.safetensors")):
        unknown.append(model)
        return 0
    return weight_bytes(folder, dtype)


def _judge_remedies(annotators: dict[str, AnnotatorSettings]) -> tuple[str, ...]:
    local = [name for name, each in annotators.items() if isinstance(each, ChatSettings) and each.backend == "vllm"]
    words = [f"panel.annotators.{name}.engine.gpu_memory_utilization=<a smaller share>" for name in local[:1]]
    return (*words, "a smaller annotator, or one behind an endpoint")


def _training(config: RunConfig, shape: Shape, device: Device, beside: dict[str, int]) -> Need:
    def parts(settings: OptimizationSettings) -> dict[str, int]:
        return {**beside, **training_parts(of_training(config, shape, settings, device))}

    remedies = []
    for words, settings in _alternatives(config.training, device):
        if sum(parts(settings).values()) <= device.memory:
            remedies.append(words)
    return Need("train", parts(config.training), device.memory, tuple(remedies[:2]))


def of_training(config: RunConfig, shape: Shape, settings: OptimizationSettings, device: Device) -> TrainingMemory:
    """Memory of the train stage with these settings, for prompts of PROMPT tokens and responses of full length."""
    response, responses = config.sampling.max_tokens, config.sampling.responses
    if config.objective.needs().degrees is not None:
        responses *= 2  # with their copies
    prompt = max(1, min(PROMPT, (config.engine.max_model_len or shape.context) - response))
    row = fullest_row(settings, prompt=prompt, response=response, responses=responses)
    return training_memory(shape, settings, row, chunk=_chunk(device), ranks=settings.processes)


def _chunk(device: Device) -> ChunkSize:
    return gpu_chunk(device.whole) if device.gpu else CPU_CHUNK


def training_parts(memory: TrainingMemory) -> dict[str, int]:
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "Adam": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.output,
        "gathered layers": memory.gathered,
    }
    return {name: size for name, size in parts.items() if size}


def _alternatives(settings: OptimizationSettings, device: Device) -> Iterator[tuple[str, OptimizationSettings]]:
    """Changes that save memory, the mildest first, as words of the command line."""

    def changed(**fields: object) -> OptimizationSettings:
        return OptimizationSettings.model_validate(settings.model_dump() | fields)

    save = {} if settings.gradient_checkpointing else {"gradient_checkpointing": True}
    also = " training.gradient_checkpointing=true" if save else ""
    if save:
        yield also.strip(), changed(**save)
    small = settings.microbatch_tokens // 4
    if small >= 1024:
        yield f"training.microbatch_tokens={small}{also}", changed(**save, microbatch_tokens=small)
    for ranks in (2, 4, 8, 16):
        if settings.processes < ranks <= device.count:
            launch = " training.launch=process" if settings.launch == "inline" else ""
            yield f"training.processes={ranks}{launch}{also}", changed(**save, launch="process", processes=ranks)
    if settings.lora is None:
        yield f"training=lora{also}", changed(**save, lora={})


def _evaluation(config: RunConfig, shape: Shape, device: Device, beside: dict[str, int]) -> Need:
    """Divergence from the initial policy: one policy at a time, in float32."""

    def parts(tokens: int) -> dict[str, int]:
        forward = forward_bytes(shape, tokens, config.training.dtype, chunk=_chunk(device))
        return {**beside, "weights": shape.parameters * ITEM_BYTES["float32"], "forward": forward}

    tokens = config.evaluation.batch_tokens
    fewer = tokens // 8
    remedies = (f"evaluation.batch_tokens={fewer}",) if sum(parts(fewer).values()) <= device.memory else ()
    return Need("evaluate", parts(tokens), device.memory, remedies)


def shapes_folder(config: RunConfig, root: Path) -> Path | None:
    """The folder whose config.json tells the policy's shape: the policy itself, else `policy.shape`; or None."""
    given = config.policy.shape
    for folder in (Path(config.policy.path), *([Path(given), root / given] if given else [])):
        if (folder / "config.json").is_file():
            return folder
    return None


def too_large(needs: Sequence[Need]) -> list[Need]:
    return [need for need in needs if not need.fits]
