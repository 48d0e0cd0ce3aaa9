"""The record of a finished round, for later rounds, tables and the report. rounds.json holds one for every round."""

from pydantic import BaseModel, ConfigDict

from tasks.evaluation.gate import Action
from tasks.evaluation.metrics import Metrics
from tasks.labeling.summary import LabelSummary


class RoundRecord(BaseModel):
    """One round of rounds.json. Round 0 is the evaluation of the initial policy.

    base: the round that made the policy which this round started from. digest, responses, evaluation, pairs, against:
    content digests of the policy, its held-out responses, the evaluation, the run's held-out pairs (in round 0), and
    the held-out responses of the policies in evaluation.against. seconds: by stage folder; stages below evaluate count
    as evaluate. decision: None until the gate decides. freed: bytes of its policies that were removed
    (storage.keep_policies).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int
    base: int
    policy: str
    digest: str
    responses: str
    evaluation: str
    pairs: str | None
    against: dict[str, str]
    figures: Metrics
    labels: LabelSummary | None
    seconds: dict[str, float]
    decision: Action | None
    freed: int = 0

    def decided(self, action: Action | None) -> "RoundRecord":
        """This record with a decision."""
        return RoundRecord.model_validate(self.model_dump() | {"decision": action})

    def freeing(self, freed: int) -> "RoundRecord":
        """This record with the bytes of its policies that were removed."""
        return RoundRecord.model_validate(self.model_dump() | {"freed": freed})
