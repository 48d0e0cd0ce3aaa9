"""A judge behind an endpoint on this machine: `vllm serve`, also with vLLM's CPU build.

    make judge-server MODEL=<folder or id>
    .venv/bin/python -m tasks.panel.chat.judge_server <folder or id> [--port 8000] [options of vllm serve]

On a CPU, vLLM needs options that it does not choose itself; they come before yours, so that yours win.
"""

import os
import sys
from collections.abc import Callable, Sequence

from tasks.modeling.templates import bound_transformers
from tasks.modeling.vllm_name import name_vllm
from tasks.modeling.vllm_process import environment, has_gpu

#: Without these, vLLM's CPU build reserves most of the memory, and compiles for minutes.
_ON_CPU = ("--kv-cache-memory-bytes", str(2**30), "--no-enable-chunked-prefill", "--enforce-eager")


def serve(words: Sequence[str]) -> None:
    """Run `vllm serve <words>` in this process until it is stopped. The address is 127.0.0.1 unless `words` say more.

    Raises SystemExit for options that vLLM does not know.
    """
    on_cpu = not has_gpu()
    os.environ.update(environment(on_cpu=on_cpu, enforce_eager=on_cpu, tensor_parallel=1) | _online())
    name_vllm()
    bound_transformers()
    from vllm.entrypoints.cli import main as cli

    run: Callable[[], None] = cli.main
    model, *options = words
    sys.argv = ["vllm", "serve", model, "--host", "127.0.0.1", *(_ON_CPU if on_cpu else ()), *options]
    run()


def _online() -> dict[str, str]:
    """`environment` is for a model in a folder: here it may be an id on the hub."""
    return {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    serve(sys.argv[1:])
