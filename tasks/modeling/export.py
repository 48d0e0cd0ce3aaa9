"""Copy a policy with its weights in another dtype, for serving it or passing it on.

    python -m tasks.modeling.export runs/<name>/policy <folder>                    in the dtype of its config.json
    python -m tasks.modeling.export runs/<name>/policy <folder> --dtype float16

A run's policies are stored in float32 (`tasks.modeling.save`). Do not continue a run from an export in half precision.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from storage.errors import UserError
from storage.files import publish_folder
from storage.manifest import MANIFEST
from tasks.modeling.json_files import read_json
from tasks.modeling.load import check_policy_folder
from tasks.modeling.policy_folder import INDEX, weight_files
from tasks.modeling.save import nominal_dtype

DTYPES = ("float32", "bfloat16", "float16")


def export(policy: Path, out: Path, dtype: torch.dtype | None = None) -> Path:
    """Write the policy to the new folder `out` in `dtype` (None: the one in its config.json). Returns `out`.

    Holds the tensors of one file at a time. Raises UserError for a folder that is not a policy, or that exists.
    """
    check_policy_folder(policy, trust_remote_code=True)  # nothing of it is run
    if out.exists():
        raise UserError("the folder exists already", where=str(out), remedy="give a new folder")
    target = dtype or nominal_dtype(policy)
    files = weight_files(policy)
    size = 0
    with publish_folder(out) as temporary:
        for path in sorted(policy.iterdir()):
            left_out = path.name.startswith(".") or path.name == MANIFEST or path.suffix == ".safetensors"
            if path.is_file() and not left_out:
                shutil.copyfile(path, temporary / path.name)
        for path in files:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            tensors = {name: t.to(target) if t.is_floating_point() else t for name, t in tensors.items()}
            size += sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, temporary / path.name, metadata={"format": "pt"})
        if (index := temporary / INDEX).is_file():
            named = read_json(index)
            named["metadata"] = named.get("metadata", {}) | {"total_size": size}
            index.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")
        config = {name: value for name, value in read_json(policy / "config.json").items() if name != "torch_dtype"}
        config["dtype"] = str(target).removeprefix("torch.")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.modeling.export", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("policy", type=Path, help="folder of the policy")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; otherwise that of the policy's config.json")
    options = parser.parse_args()
    try:
        print(export(options.policy, options.out, options.dtype and getattr(torch, options.dtype)))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
