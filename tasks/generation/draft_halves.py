"""Drafts of two kinds for each prompt, for a panel to judge: half of the responses are of one kind, half of the other.

traces  With the policy's own reasoning, and with an empty one (BVPO, arXiv 2510.05095).
refine  The policy's own responses, and what it makes of each when asked for a better one (in the spirit of EVOLVE,
        arXiv 2502.05605). The instruction is ours; the paper also trains on the request to refine itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EMPTY = "@empty"


_INSTRUCTION = (
    "Improve your answer: correct its mistakes and leave out what does not help. Write only the improved answer."
)


class Traces(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["traces"]
    # How a response without reasoning begins: what the policy's chat template writes when reasoning is switched off.
    empty: str = Field("<think>\n\n</think>\n\n", min_length=1)

    def ask(
        self, row: Row, tokenizer: "PreTrainedTokenizerBase", own: Sequence[Row]
    ) -> tuple[list[Row], list[list[int]]]:
        """The prompt twice (storage.schemas.PROMPTS), and how the responses to each begin, as token ids."""
        empty: list[int] = tokenizer.encode(self.empty, add_special_tokens=False)
        return [row, row | {"prompt_id": f"{row['prompt_id']}{_EMPTY}"}], [[], empty]

    def made(self, name: str, sampled: Sequence[Row], prefixes: dict[str, list[int]], own: Sequence[Row]) -> list[Row]:
        """The prompt's responses in order, from those to what was asked; with their own begin."""
        return [row for row in sampled if row["prompt_id"] == name] + [
            begun(row, prefixes[row["prompt_id"]]) for row in sampled if row["prompt_id"] != name
        ]


class Refine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["refine"]
    instruction: str = Field(_INSTRUCTION, min_length=1)  # what the policy is told after its own response; OURS

    def ask(
        self, row: Row, tokenizer: "PreTrainedTokenizerBase", own: Sequence[Row]
    ) -> tuple[list[Row], list[list[int]]]:
        """The conversation with each of the prompt's `own` responses and the instruction, and no beginnings."""
        asked = [
            row
            | {
                "prompt_id": f"{row['prompt_id']}@{response['response_index']}",
                "messages": [
                    *row["messages"],
                    {"role": "assistant", "content": response["text"]},
                    {"role": "user", "content": self.instruction},
                ],
            }
            for response in own
        ]
        return asked, [[] for _ in asked]

    def made(self, name: str, sampled: Sequence[Row], prefixes: dict[str, list[int]], own: Sequence[Row]) -> list[Row]:
        """The prompt's own responses, then the refined ones, in the same order."""
        refined = {row["prompt_id"]: row for row in sampled}
        return [*own, *(begun(refined[f"{name}@{row['response_index']}"], []) for row in own)]


def begun(row: Row, prefix: Sequence[int]) -> Row:
    """The response with its first tokens; no log-probabilities, as it was not sampled from the plain prompt."""
    ids = [*prefix, *row["response_ids"]]
    return row | {"response_ids": ids, "logprobs": [float("nan")] * len(ids)}
