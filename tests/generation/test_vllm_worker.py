"""What the child process calls in vLLM, without vLLM."""

from typing import Any

from tasks.child_process import Done
from tasks.generation.vllm_worker import Reload, Worker


class RecordingLlm:
    """Records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def collective_rpc(self, name: str, args: tuple[str, ...]) -> None:
        self.calls.append(f"{name} {args[0]}")

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset_prefix_cache")


def test_a_reload_forgets_the_keys_and_values_of_the_old_weights() -> None:
    worker: Any = Worker()
    worker._llm = RecordingLlm()
    assert worker.answer(Reload(policy="policy")) == Done()
    assert worker._llm.calls == ["reload_policy policy", "reset_prefix_cache"]
