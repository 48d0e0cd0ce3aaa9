"""What stages run on: this machine's GPUs or memory, or a card that a configuration names. For the memory plan."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from tasks.modeling.memory import available_memory
from tasks.modeling.vllm_process import has_gpu

_GB = 10**9
#: Share of a GPU that stages can use: torch's allocator leaves gaps, and a block must fit in one piece.
_USABLE = 0.95


class CardSettings(BaseModel):
    """GPUs that a memory plan is made for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: As the card is called, in 10**9 bytes: what a card of "80 GB" has at least (it may have 80 * 2**30).
    memory_gb: float = Field(gt=0)
    count: int = Field(1, ge=1)


@dataclass(frozen=True)
class Device:
    """Where stages run. On a CPU all processes share the memory; on GPUs each has its own."""

    name: str
    memory: int  # bytes that stages can use, of one GPU or of the machine
    whole: int  # bytes of it
    count: int
    gpu: bool


def card_device(card: CardSettings) -> Device:
    """The cards that the configuration names."""
    whole = int(card.memory_gb * _GB)
    count = f"{card.count} GPUs" if card.count > 1 else "a GPU"
    return Device(f"{count} of {card.memory_gb:g} GB", int(whole * _USABLE), whole, card.count, gpu=True)


def present_device() -> Device:
    """This machine's GPUs, of the memory of the smallest, or its free memory."""
    if not has_gpu():
        free = available_memory()
        return Device("this machine's memory", free, free, 1, gpu=False)
    import torch

    count = torch.cuda.device_count()
    whole = min(torch.cuda.get_device_properties(number).total_memory for number in range(count))
    name = torch.cuda.get_device_name(0)
    return Device(f"{count} x {name}" if count > 1 else name, int(whole * _USABLE), whole, count, gpu=True)
