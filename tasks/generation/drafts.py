"""Drafts: pairs of responses made so that one of them is better, without a judge.

    ladder  The policy answers each prompt at two qualities, which a system message names. The gap shrinks by round.
            After only-prompting self-rewarding, arXiv 2409.17534; the wording, the five qualities and the schedule are
            ours.
    sapo    The prompt's reference, and a copy in which the policy has rewritten one segment. What follows the segment
            is kept, unless the policy ended its reply there. arXiv 2405.20830; here the unit is a round, not a step.

    traces, refine  Two kinds of responses, for a panel to judge: tasks/generation/draft_halves.py.

Three stages: `ask` writes the questions to the policy, an ordinary generate stage samples the answers, `assemble`
makes the round's responses from them, the better one first. For the rest of the round they are responses to the plain
prompt. They were not sampled from it, so their log-probabilities are NaN.
"""

import random
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from storage.artifact import Artifact
from storage.errors import UserError
from storage.files import digest
from storage.manifest import Manifest
from storage.rows import Row
from storage.schemas import PREFIXES, PROMPTS, RESPONSES, read_parquet, table, write_parquet
from storage.stage import Outcome, Progress, Spec, Unkeyed, run_stage, silent
from tasks.generation.draft_halves import Refine, Traces
from tasks.modeling.conversation import RefusedConversation, encode_chat, encode_reply, reply_text
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED = "asked.parquet"
PIECES = "pieces.parquet"
_QUALITY = "{quality}"


class _Drafts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoDrafts(_Drafts):
    kind: Literal["none"] = "none"


class Ladder(_Drafts):
    kind: Literal["ladder"]
    best: int = 5
    gaps: list[Annotated[int, Field(ge=1)]] = Field([4, 3, 2, 1], min_length=1)  # OURS: by round; the last one stays
    instruction: str = "Write an answer of this quality, on a scale from 1 (worst) to 5 (best): {quality}"  # OURS

    @field_validator("instruction")
    @classmethod
    def _has_a_place(cls, text: str) -> str:
        if _QUALITY not in text:
            raise ValueError("the instruction must contain {quality}, where the number is put")
        return text

    @model_validator(mode="after")
    def _on_the_ladder(self) -> "Ladder":
        if max(self.gaps) >= self.best:
            raise ValueError("the lowest quality is 1: every gap must be less than best")
        return self

    def qualities(self, round_number: int) -> tuple[int, int]:
        """The qualities asked for in a round (the first is 1): of the better and of the worse response."""
        gap = self.gaps[min(round_number, len(self.gaps)) - 1]
        return self.best, self.best - gap


class Sapo(_Drafts):
    kind: Literal["sapo"]
    tokens: int = Field(256, ge=1)  # of the segment, at most as many as the reference has


Drafts = Ladder | Sapo | Traces | Refine
DraftSettings = Annotated[NoDrafts | Drafts, Field(discriminator="kind")]


class AskSpec(Spec):
    """Publish asked.parquet (storage.schemas.PROMPTS) and pieces.parquet (PREFIXES)."""

    stage: ClassVar[str] = "ask"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.generation.drafts:run_ask"

    settings: Drafts = Field(discriminator="kind")
    prompts: Artifact  # the round's, Parquet of storage.schemas.PROMPTS
    policy: Artifact  # its tokenizer encodes the references
    own: Artifact | None = None  # refine: folder of the generate stage with the policy's own responses
    trust_remote_code: Annotated[bool, Unkeyed("whether the policy's code may run, not what it does")] = False


class AssembleSpec(Spec):
    """Publish the round's responses, as a generate stage would."""

    stage: ClassVar[str] = "assemble"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.generation.drafts:run_assemble"

    settings: Drafts = Field(discriminator="kind")
    prompts: Artifact
    own: Artifact | None = None  # as in AskSpec
    asked: Artifact  # folder of the ask stage
    drafts: Artifact  # folder of the generate stage that sampled what was asked
    policy: Artifact
    trust_remote_code: Annotated[bool, Unkeyed("whether the policy's code may run, not what it does")] = False


def run_ask(spec: AskSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the ask stage. Raises UserError (file, line) when SAPO finds a prompt without a reference."""

    def body() -> Outcome:
        tokenizer = load_tokenizer(spec.policy.path, trust_remote_code=spec.trust_remote_code)
        asked: list[Row] = []
        pieces: list[Row] = []
        own = _by_prompt(spec.own)
        for row in read_parquet(spec.prompts.path, PROMPTS).to_pylist():
            if isinstance(spec.settings, Traces | Refine):
                rows, prefixes = spec.settings.ask(row, tokenizer, own.get(row["prompt_id"], []))
                asked += rows
                pieces += [
                    {"prompt_id": each["prompt_id"], "prefix_ids": prefix, "suffix_ids": []}
                    for each, prefix in zip(rows, prefixes, strict=True)
                ]
            elif isinstance(spec.settings, Ladder):
                for quality in spec.settings.qualities(spec.round):
                    asked.append(_instructed(row, spec.settings, quality))
                    pieces.append({"prompt_id": asked[-1]["prompt_id"], "prefix_ids": [], "suffix_ids": []})
            else:
                asked.append(row)
                pieces.append(_cut(row, spec.settings, tokenizer, spec))
        paths = [spec.folder / ASKED, spec.folder / PIECES]
        write_parquet(paths[0], table(asked, PROMPTS))
        write_parquet(paths[1], table(pieces, PREFIXES))
        return Outcome(paths=paths, rows={"asked": len(asked)})

    return run_stage(spec, body)


def _instructed(row: Row, settings: Ladder, quality: int) -> Row:
    """The prompt with the instruction as its system message, or at the end of the system message that it has."""
    text = settings.instruction.replace(_QUALITY, str(quality))
    messages = list(row["messages"])
    if messages[0]["role"] == "system":
        messages[0] = {"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}
    else:
        messages.insert(0, {"role": "system", "content": text})
    return row | {"prompt_id": f"{row['prompt_id']}@{quality}", "messages": messages}


def _cut(row: Row, settings: Sapo, tokenizer: "PreTrainedTokenizerBase", spec: Spec) -> Row:
    """The tokens before and after a segment of the prompt's reference, drawn by seed, round and prompt."""
    whole = _reference(row, tokenizer)
    text = len(whole) - 1  # without the end token
    length = min(settings.tokens, text)
    start = random.Random(digest([spec.seed, spec.round, row["prompt_id"]])).randint(0, text - length)
    return {"prompt_id": row["prompt_id"], "prefix_ids": whole[:start], "suffix_ids": whole[start + length :]}


def _reference(row: Row, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids of the prompt's reference as the assistant's reply, with the end token."""
    if not row["reference"]:
        raise UserError(
            "the prompt has no reference",
            where=row["source"],
            remedy="drafts=sapo needs an answer to every prompt: name its field, prompts.reference_field=<field>",
        )
    try:
        return encode_reply(tokenizer, row["messages"], row["reference"]).reply_ids
    except RefusedConversation as refused:
        raise refused.at(row["source"]) from None


def run_assemble(spec: AssembleSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the assemble stage: the responses to each prompt of the round; of two, the better one first."""

    def body() -> Outcome:
        tokenizer = load_tokenizer(spec.policy.path, trust_remote_code=spec.trust_remote_code)
        ends = end_tokens(spec.policy.path, trust_remote_code=spec.trust_remote_code)
        sampled, own = _by_prompt(spec.drafts), _by_prompt(spec.own)
        pieces = {row["prompt_id"]: row for row in read_parquet(spec.asked.path / PIECES, PREFIXES).to_pylist()}
        prefixes = {asked: piece["prefix_ids"] for asked, piece in pieces.items()}
        prompts = read_parquet(spec.prompts.path, PROMPTS).to_pylist()
        names = {prompt["prompt_id"] for prompt in prompts}
        answers: dict[str, list[Row]] = {}
        for asked in pieces:
            answers.setdefault(asked if asked in names else asked.rpartition("@")[0], []).extend(sampled[asked])
        rows: list[Row] = []
        for prompt in prompts:
            name, prompt_ids = prompt["prompt_id"], encode_chat(tokenizer, prompt["messages"])
            if isinstance(spec.settings, Traces | Refine):
                kinds = spec.settings.made(name, answers[name], prefixes, own.get(name, []))
                made = [(row["response_ids"], row["finish_reason"], row["logprobs"]) for row in kinds]
            elif isinstance(spec.settings, Ladder):
                drafts = [sampled[f"{name}@{quality}"][0] for quality in spec.settings.qualities(spec.round)]
                made = [_unscored(each["response_ids"], each["finish_reason"]) for each in drafts]
            else:
                whole = _reference(prompt, tokenizer)
                made = [_unscored(whole), _unscored(_augmented(whole, pieces[name], sampled[name][0]))]
            for index, (ids, finish, logprobs) in enumerate(made):
                rows.append(
                    {
                        "prompt_id": name,
                        "response_index": index,
                        "prompt_ids": prompt_ids,
                        "response_ids": ids,
                        "text": reply_text(tokenizer, ids, ends),
                        "finish_reason": finish,
                        "logprobs": logprobs,
                        "seed": 0,
                    }
                )
        path = spec.folder / "responses-00000-of-00001.parquet"
        responses = table(rows, RESPONSES)
        write_parquet(path, responses)
        return Outcome(paths=[path], rows={"responses": len(rows)}, summary=_summary(responses))

    return run_stage(spec, body)


def _by_prompt(folder: Artifact | None) -> dict[str, list[Row]]:
    """The responses of a generate stage by prompt_id, in their order; empty without one."""
    found: dict[str, list[Row]] = {}
    paths = sorted(folder.path.glob("responses-*.parquet")) if folder is not None else []
    for row in read_parquet(paths, RESPONSES).to_pylist() if paths else []:
        found.setdefault(row["prompt_id"], []).append(row)
    return found


def _unscored(ids: list[int], finish: str = "stop") -> tuple[list[int], str, list[float]]:
    """A response that was not sampled from its prompt: token ids, finish reason, log-probabilities."""
    return ids, finish, [float("nan")] * len(ids)


def _augmented(whole: list[int], pieces: Row, sampled: Row) -> list[int]:
    """The reference with its segment rewritten, at most as long as it was. The rest follows unless the reply ended."""
    length = len(whole) - len(pieces["prefix_ids"]) - len(pieces["suffix_ids"])
    rewritten = sampled["response_ids"][:length]
    ended = sampled["finish_reason"] == "stop" and len(sampled["response_ids"]) <= length
    return [*pieces["prefix_ids"], *rewritten, *([] if ended else pieces["suffix_ids"])]


def _summary(responses: pa.Table) -> dict[str, float]:
    lengths = [len(ids) for ids in responses["response_ids"].to_pylist()]
    ended = [reason == "stop" for reason in responses["finish_reason"].to_pylist()]
    return {
        "responses": len(lengths),
        "tokens": sum(lengths),
        "mean_tokens": sum(lengths) / len(lengths),
        "finished": sum(ended) / len(ended),
    }
