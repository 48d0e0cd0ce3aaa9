"""Measures the peak memory of training steps: `python -m tests.flows.peak_worker <policy> <settings as JSON> ...`.

Each settings (OptimizationSettings) is measured on its own, in this process: freed memory goes back to the system. One
line of JSON each: bytes above those before the policy was read, at the peak of a step after the first one.
"""

import gc
import json
import os
import sys
from pathlib import Path

#: glibc keeps freed blocks below this size for later. All tensors that count are above it.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
#: Tokens of a prompt and of a response, responses of a prompt, prompts in a row.
PROMPT, RESPONSE, RESPONSES, PROMPTS = 64, 96, 4, 2


def resident(field: str) -> int:
    """Bytes: VmRSS is now, VmHWM the most since `reset`."""
    with open("/proc/self/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


def reset() -> None:
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")


def measure(policy: Path, settings: str) -> int:
    import numpy as np
    import torch

    from tasks.modeling.load import load_policy
    from tasks.training.batching import build_forward
    from tasks.training.groups import PromptGroup
    from tasks.training.optimizer import build_optimizer, trainable
    from tasks.training.policy import add_adapters, checkpoint_activations
    from tasks.training.settings import OptimizationSettings

    chosen = OptimizationSettings.model_validate_json(settings)
    gc.collect()
    before = resident("VmRSS")
    model = load_policy(policy, dtype="float32", device="cpu")
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # not a view of the file
    if chosen.gradient_checkpointing:
        checkpoint_activations(model)
    trained = model if chosen.lora is None else add_adapters(model, chosen.lora, 0)
    forward = build_forward(trained, chosen)  # type: ignore[arg-type]
    parameters = trainable(trained)
    optimizer = build_optimizer(parameters, chosen)
    ids = np.arange(RESPONSE, dtype=np.int32)
    groups = [
        PromptGroup(str(number), 1, np.arange(PROMPT, dtype=np.int32), list(range(RESPONSES)), [ids] * RESPONSES, [])
        for number in range(PROMPTS)
    ]
    for step in range(2):
        if step == 1:
            reset()
        for _ in range(2):  # gradients accumulate
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen.dtype == "bfloat16"):
                sums, _ = forward.logprobs(groups)
            sums.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return resident("VmHWM") - before


def main() -> None:
    import torch

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    measure(folder, sys.argv[2])  # loads modules, which stay
    for settings in sys.argv[2:]:
        print(json.dumps(measure(folder, settings)), flush=True)


if __name__ == "__main__":
    assert all(os.environ.get(name) for name in ENVIRONMENT)
    main()
