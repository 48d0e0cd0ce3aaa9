"""Export the policy of a run or a round: a folder in a dtype of choice, a LoRA adapter, or a GGUF file.

    python -m flows.export runs/mine exported                          # as it is: dtype of the initial policy
    python -m flows.export runs/mine exported --dtype bfloat16
    python -m flows.export runs/mine/round-01 adapter --adapter        # of a round that trained with training=lora
    python -m flows.export runs/mine mine.gguf --gguf --dtype float16  # for llama.cpp

A run's own policies are in float32, because the next round starts from them: do not continue a run from an export.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.result import Result, find_result
from flows.show.terminal import console, exit_on_user_error
from storage.display import size
from storage.errors import UserError
from storage.files import publish_folder

_DTYPES = ("float32", "bfloat16", "float16")


def main(words: Sequence[str]) -> None:
    options = _parser().parse_args(words)
    result = find_result(options.policy)
    if options.adapter and options.dtype:
        raise UserError(
            "an adapter is exported as it was trained", where="--adapter --dtype", remedy="leave one of the two out"
        )
    if options.adapter:
        made = export_adapter(result, options.out)
    elif options.gguf:
        from tasks.modeling.gguf import write_gguf

        made = write_gguf(result.folder, options.out, options.dtype or "bfloat16")
    else:
        import torch

        from tasks.modeling.export import export

        made = export(result.folder, options.out, getattr(torch, options.dtype) if options.dtype else None)
    files = [path for path in made.rglob("*") if path.is_file()] if made.is_dir() else [made]
    console.print(f"{result.name}: {made}   {size(sum(path.stat().st_size for path in files))}", soft_wrap=True)


def export_adapter(result: Result, out: Path) -> Path:
    """Copy the adapter that a round trained to the new folder `out`; peft's PeftModel.from_pretrained reads it.

    Raises UserError for a policy that was not trained with adapters, and for a folder that exists.
    """
    adapter = result.folder.parent / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(
            "there is no adapter: this policy was not trained with training=lora, or its round averages policies",
            where=str(result.folder),
            remedy="export the whole policy (without --adapter), or name a round that trained an adapter",
        )
    if out.exists():
        raise UserError("the folder exists already", where=str(out), remedy="give a new folder")
    with publish_folder(out) as temporary:
        for path in sorted(adapter.iterdir()):
            if path.is_file():
                shutil.copyfile(path, temporary / path.name)
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("policy", type=Path, help="a run (runs/mine), a round of it (runs/mine/round-01) or a policy")
    parser.add_argument("out", type=Path, help="new folder; with --gguf a new file")
    parser.add_argument(
        "--dtype", choices=_DTYPES, help="of the weights; default: the initial policy's, GGUF: bfloat16"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--adapter", action="store_true", help="only the adapter of a round that trained with LoRA")
    form.add_argument("--gguf", action="store_true", help="one GGUF file (Llama, Mistral and Qwen2 models)")
    return parser


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
