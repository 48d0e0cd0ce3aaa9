"""vLLM alone, in a process of its own: what the generate stage is compared with.

    python -m benchmarks.generation.bare <policy folder> <file of prompts>

Started with the environment of the stage's engine. Answers each line on stdin ("same" or "plain") with one JSON object:
seconds of `LLM.generate` by the wall and by this process's CPU clock, and the tokens sampled. `same` has the stage's
sampling parameters: a seed for each request and the log-probability of each sampled token; `plain` has neither.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tasks.processes import die_with_parent


def main(policy: str, file: Path) -> None:
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    work: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(policy, **work["options"])
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in work["prompts"]]
    parameters = {
        "same": [SamplingParams(**work["sampling"], logprobs=0, seed=seed) for seed in work["seeds"]],
        "plain": [SamplingParams(**work["sampling"]) for _ in work["seeds"]],
    }
    for line in sys.stdin:
        llm.reset_prefix_cache()
        wall, cpu = time.monotonic(), time.process_time()
        outputs = llm.generate(prompts, parameters[line.strip()], use_tqdm=False)
        found = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
        found["tokens"] = sum(len(response.token_ids) for output in outputs for response in output.outputs)
        print(json.dumps(found), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
