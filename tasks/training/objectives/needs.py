"""What an objective needs beyond the log-probabilities of policy and reference, as data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Degrees:
    """A copy of each response without some of its key phrases, and a label word that says how many are missing."""

    labels: tuple[str, ...]  # the words for 0 missing phrases, 1, and so on
    stop_words: tuple[str, ...] = ()  # that end a phrase, beside English words of grammar


@dataclass(frozen=True)
class Needs:
    """The pipeline provides each of these, or refuses before anything runs. Nothing is needed by default."""

    ties: bool = True  # can learn from a pair whose target is 0; hard labels cannot, and leave it out
    previous: bool = False  # log-probabilities under the policy that training starts from, beside the reference's
    tokens: bool = False  # log-probabilities of single tokens, the references' too
    alignment: bool = False  # positions of the tokens in which the two responses of a pair differ
    levels: bool = False  # whether no other response of the prompt beats chosen
    scores: tuple[str, ...] | None = None  # of these annotators (empty: all that give any); None = no scores
    standardise: bool = True  # scores: each annotator's have mean 0 and deviation 1 over the round
    quality_instruction: str | None = None  # how much likelier this instruction makes each response
    win_rates: bool = False  # of each response against the others of its prompt, from the votes
    votes: bool = False  # each annotator's vote on each pair
    listwise: bool = False  # a share for each response of a prompt; a prompt's responses stay in one forward
    share_temperature: float = 0.5  # listwise with scores: shares are the softmax of the scores over this
    embedder: str | None = None  # what turns prompts into vectors: "policy", a folder or a hub id
    extra: Literal["greedy", "reference"] | None = None  # one more response a prompt: at temperature 0 | of pi_ref
    mixture: float | None = None  # responses sampled from pi_ref^mixture * pi^(1-mixture), token by token
    # Pairs of one response of the first half of a prompt's with one of the second, or of two of the same half. With a
    # mixture, the second half is sampled from it and the first from the policy. Other pairs are left out.
    halves: Literal["across", "within"] | None = None
    goals: bool = False  # whether the prompt of a relabelled pair asks for the highest goal (mixing.goals)
    errors: bool = False  # the standard error of each pair's target
    degrees: Degrees | None = None  # with `tokens`
