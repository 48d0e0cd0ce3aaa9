"""How much memory training takes on one device, from sizes alone, in bytes. Nothing is loaded.

Weights, gradients and Adam's two moments are in float32. Counted are the tensors that autograd keeps for the backward
pass and the largest temporary ones, at the moments when they can be the most: when the output layer's gradient is
computed, and in the backward pass through the last decoder layer. `tests/flows/test_memory_measured.py` compares the
sums with the peak of a real process.
"""

from dataclasses import dataclass

from tasks.modeling.chunk_size import ChunkSize
from tasks.modeling.shape import Shape
from tasks.training.settings import OptimizationSettings

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Row:
    """What one forward of training computes."""

    tokens: int
    keys: int  # of attention: each response attends to its prompt's keys beside its own
    predicted: int  # response tokens


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device at the peak of a step that accumulates gradients."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass, with half-precision copies of the weights and temporary tensors
    output: int  # logits of a chunk, those that are kept, and the gradient of the output layer
    gathered: int  # with several ranks: weights and gradients of whole layers

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.output + self.gathered


def forward_bytes(shape: Shape, tokens: int, dtype: str, *, chunk: ChunkSize) -> int:
    """Bytes of a forward without gradient over float32 weights: one layer, a copy of its largest weight, a chunk."""
    item = 2 if dtype == "bfloat16" else _FLOAT
    layer = tokens * (3 * _FLOAT * shape.hidden + 4 * item * shape.inner)
    return layer + item * shape.output + min(chunk.logits, tokens * shape.vocabulary) * (2 * _FLOAT + item)


def fullest_row(settings: OptimizationSettings, *, prompt: int, response: int, responses: int) -> Row:
    """A full row of prompts of `prompt` tokens, each with `responses` responses of `response` tokens.

    A row has at most microbatch_tokens tokens, or one prompt with its responses.
    """
    if settings.batching == "plain":
        sequence = prompt + response
        rows = max(settings.microbatch_tokens // sequence, responses)
        return Row(tokens=rows * sequence, keys=rows * sequence, predicted=rows * response)
    group = prompt + responses * (response - 1)
    keys = prompt + responses * (prompt + response - 1)
    tokens = max(settings.microbatch_tokens, group)
    return Row(tokens=tokens, keys=tokens * keys // group, predicted=tokens * responses * response // group)


def training_memory(
    shape: Shape, settings: OptimizationSettings, row: Row, *, chunk: ChunkSize, ranks: int = 1
) -> TrainingMemory:
    """The memory of one of `ranks` ranks."""
    half = settings.dtype == "bfloat16"
    item = 2 if half else _FLOAT
    lora = settings.lora
    adapter = 0 if lora is None else shape.adapter(lora.rank)
    trained = shape.parameters if lora is None else adapter
    of_layer = row.tokens * _kept_by_layer(shape, item) + 2 * row.keys * shape.keys * item
    copies = 2 * shape.linear if half else 0  # autocast's copies of the weights, kept for their gradient's products
    if ranks > 1:
        copies = 0  # the gathered weights are in half precision
    stream = _FLOAT * shape.hidden * row.tokens
    if settings.gradient_checkpointing:
        kept_in_layers = shape.layers * stream
        one_layer = of_layer + copies // shape.layers
        full_copies = copies if lora is None else 0  # kept until the forward ends
        last_layer = kept_in_layers + one_layer + _temporary(shape, row, item, trains_weights=lora is None)
        at_output = kept_in_layers
        forward_end = kept_in_layers + full_copies
    else:
        kept_in_layers = shape.layers * of_layer + copies
        last_layer = kept_in_layers + _temporary(shape, row, item, trains_weights=lora is None)
        at_output = forward_end = kept_in_layers
    output = _output(shape, row, item, chunk, trains_weights=lora is None)
    peak = max(last_layer, at_output + output, forward_end) + 3 * stream  # the final norm and its gradient
    return TrainingMemory(
        weights=_FLOAT * (shape.parameters + adapter) // ranks,
        gradients=_FLOAT * trained // ranks,
        optimizer=2 * _FLOAT * trained // ranks,
        activations=peak - min(output, peak - at_output),
        output=min(output, peak - at_output),
        gathered=_gathered(shape, item) if ranks > 1 else 0,
    )


def _kept_by_layer(shape: Shape, item: int) -> int:
    """Bytes a token that one decoder layer keeps, without keys and values.

    Each norm keeps its input and the normalised one in float32. Under autocast every linear layer keeps a copy of its
    own input; in float32 they share it.
    """
    norms = 4 * _FLOAT * shape.hidden
    inputs = (5 if shape.gated else 4) * item * shape.hidden if item == 2 else 2 * item * shape.hidden
    attention = 3 * item * shape.queries + _FLOAT * shape.heads
    return norms + inputs + attention + (4 if shape.gated else 2) * item * shape.inner


def _temporary(shape: Shape, row: Row, item: int, *, trains_weights: bool) -> int:
    """Bytes of the backward pass through one MLP, beyond what its forward kept."""
    gradients = row.tokens * (2 * item * shape.inner + _FLOAT * shape.hidden)
    return gradients + ((_FLOAT + item) * shape.inner * shape.hidden if trains_weights else 0)


def _output(shape: Shape, row: Row, item: int, chunk: ChunkSize, *, trains_weights: bool) -> int:
    """Bytes that the output layer takes in its backward pass, and for its logits."""
    every = row.predicted * shape.vocabulary
    # Beside a chunk's log-probabilities, which may be kept, are its logits, and in half precision a float32 copy.
    of_chunk = _FLOAT + (item if item == 2 else 0) + (_FLOAT if every > chunk.kept else 0)
    weight = shape.output * (item if item == 2 else 0)
    gradient = shape.output * (_FLOAT + item) if trains_weights else 0
    rows = 3 * _FLOAT * shape.hidden * row.predicted
    return weight + gradient + rows + min(chunk.kept, every) * _FLOAT + min(chunk.logits, every) * of_chunk


def _gathered(shape: Shape, item: int) -> int:
    """Bytes of whole weights and gradients that a rank holds: those outside of the layers, and two layers at a time."""
    outside = shape.parameters - shape.layers * shape.layer
    return (outside + 2 * shape.layer) * (item + _FLOAT)
