"""The showcase's folder: the policy and its prompts.

python -m tasks.smollm2.build FOLDER [--real FILE ...]

FOLDER/policy/          SmolLM2-135M-Instruct: float32, tied embeddings, 134.5 million parameters
       prompts.jsonl    {prompt, answer, category}: 456 made training prompts
       heldout.jsonl    76 made ones about other things; with --real also 16 questions of every file
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from storage.errors import UserError
from storage.files import publish_folder
from tasks.smollm2.convert import convert
from tasks.smollm2.prompts import made_prompts, real_prompts, write_prompts

REAL = 16  # questions of every file


def build_smollm2(folder: Path, real: Sequence[Path] = ()) -> None:
    """Make the folder; it appears under its name only when it is complete. real: files of real questions.

    Raises UserError when a package is missing or a file has no questions.
    """
    training, held_out = made_prompts()
    held_out = held_out + real_prompts(real, REAL)
    with publish_folder(folder) as temporary:
        convert(temporary / "policy")
        write_prompts(temporary / "prompts.jsonl", training)
        write_prompts(temporary / "heldout.jsonl", held_out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.smollm2.build", description="Build the showcase's folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="files of questions that people wrote")
    arguments = parser.parse_args()
    try:
        build_smollm2(arguments.folder, arguments.real)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
