"""What an objective needs beyond the log-probabilities of policy and reference, as data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Needs:
    """The pipeline provides each of these, or refuses before anything runs. Nothing is needed by default."""

    ties: bool = True  # can learn from a pair whose target is 0; hard labels cannot, and leave it out
    previous: bool = False  # log-probabilities under the policy that training starts from, beside the reference's
    tokens: bool = False  # log-probabilities of single tokens, the references' too
    alignment: bool = False  # which tokens tell the two responses of a pair apart
    levels: bool = False  # which responses of a prompt no other one beats
    scores: tuple[str, ...] | None = None  # of these annotators (empty: all that give any); None = no scores
    own_quality: bool = False  # how good the policy itself takes each response to be
    win_rates: bool = False  # of each response against the others of its prompt, from the votes
    votes: bool = False  # who voted for which response of a pair
    listwise: bool = False  # one label for all responses of a prompt, kept together in one forward
    embedder: str | None = None  # what turns prompts into vectors: "policy", a folder or a hub id
    extra: Literal["greedy", "reference"] | None = None  # one more response a prompt: at temperature 0 | of pi_ref
    mixture: float | None = None  # responses sampled from pi_ref^mixture * pi^(1-mixture), token by token
