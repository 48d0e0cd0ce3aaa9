"""Active selection: the dear annotators are asked only about the prompts on which the cheap ones are least sure.

The others vote first, on everything. A prompt is worth asking about the more, the closer their votes on its pairs are
to an even split (query by committee). After the proxy reward models of arXiv 2407.02119, whose rule we have not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from storage.arrays import Floats, Ints

if TYPE_CHECKING:
    from tasks.panel.annotators.protocol import Annotator, Response
    from tasks.panel.questions import PanelVotes

#: The part of a vote that goes to a; other outcomes say nothing.
_SHARES = {"a": 1.0, "tie": 0.5, "b": 0.0}

#: Has some annotators vote on comparisons [n, 2]; the last argument names the pass.
VoteOn = Callable[[Sequence["Annotator"], Ints, str], "PanelVotes"]


class ActiveSettings(BaseModel):
    """Ask some annotators about a share of the prompts only: those on which the others are least sure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotators: list[str] = Field(min_length=1)  # that are asked about the chosen prompts only; they vote on pairs
    share: float = Field(gt=0, lt=1)  # of the round's prompts


def vote_in_two_passes(
    annotators: Sequence["Annotator"],
    responses: Sequence["Response"],
    comparisons: Ints,
    active: ActiveSettings | None,
    vote_on: VoteOn,
) -> "PanelVotes":
    """The votes of those in `active` on the chosen prompts, and of the others on all comparisons [n, 2]."""
    if active is None:
        return vote_on(annotators, comparisons, "panel")
    cheap = vote_on([each for each in annotators if each.name not in active.annotators], comparisons, "panel")
    prompts = list(dict.fromkeys(responses[a].prompt_id for a, _ in comparisons.tolist()))
    chosen = set(unsure_prompts(cheap.votes, prompts, active.share))
    asked = [responses[a].prompt_id in chosen for a, _ in comparisons.tolist()]
    dear = vote_on(
        [each for each in annotators if each.name in active.annotators], comparisons[np.array(asked)], "active"
    )
    return replace(
        cheap,
        scores=pa.concat_tables([cheap.scores, dear.scores]),
        votes=pa.concat_tables([cheap.votes, dear.votes]),
        outages={**cheap.outages, **dear.outages},
    )


def unsure_prompts(votes: pa.Table, prompts: Sequence[str], share: float) -> list[str]:
    """The part `share` of `prompts` on which `votes` (storage.schemas.VOTES) agree least, in the order of `prompts`."""
    place = {name: number for number, name in enumerate(prompts)}
    pairs: dict[tuple[int, int, int], list[float]] = {}
    columns = (votes[name].to_pylist() for name in ("prompt_id", "index_a", "index_b", "outcome", "probability"))
    for prompt, a, b, outcome, probability in zip(*columns, strict=True):
        if outcome in _SHARES:
            part = _SHARES[outcome] if probability is None else probability
            pairs.setdefault((place[prompt], a, b), []).append(part)
    of_prompt = np.array([prompt for prompt, _, _ in pairs], dtype=np.int64)
    means = np.array([np.mean(parts) for parts in pairs.values()], dtype=np.float64)
    return [prompts[number] for number in most_unsure(of_prompt, means, len(prompts), share)]


def most_unsure(prompt: Ints, preference: Floats, prompts: int, share: float) -> Ints:
    """Numbers, ascending, of the part `share` of the prompts 0 .. prompts - 1 that are least sure; at least one.

    prompt, preference [n]: the prompt of each pair, and the share of votes for its first response. How sure a prompt
    is: the mean over its pairs of the distance to an even split. Prompts without votes come first, equals in order.
    """
    sums, counts = np.zeros(prompts), np.zeros(prompts)
    np.add.at(sums, prompt, np.abs(2 * preference - 1))
    np.add.at(counts, prompt, 1.0)
    sure = np.divide(sums, counts, out=np.full(prompts, -1.0), where=counts > 0)
    chosen: Ints = np.sort(np.argsort(sure, kind="stable")[: max(1, round(share * prompts))])
    return chosen
