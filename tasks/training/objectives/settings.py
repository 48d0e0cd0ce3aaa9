"""Settings of the objectives, one class a method, told apart by `name`. Defaults are the papers' unless marked OURS.

What each method is, when to use it and how sure we are of it: docs/methods.md. `beta` is what multiplies the log-ratio
in the implicit reward, whatever its letter in the paper; where a method's own constant is not that, it has a name.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.training.objectives.moving import Reference
from tasks.training.objectives.needs import Needs

Labels = Literal["hard", "soft"]
#: Where rewards of responses come from: scores of annotators, or the targets (logits) of the preferences.
Rewards = Literal["scores", "target"]

PAPERS_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


class ObjectiveBase(BaseModel):
    """What every method has. The reference is the policy that log-ratios are taken against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: Reference = "initial"

    @property
    def margin_scale(self) -> float:
        """What turns a difference of log-ratios into one of implicit rewards (the metric `margin`)."""
        raise NotImplementedError

    def needs(self) -> Needs:
        """What these settings need to be trained with."""
        return Needs()


class PairObjective(ObjectiveBase):
    """A loss of each labelled pair."""

    beta: float = Field(0.1, gt=0)  # implicit reward = beta * log(policy / reference)
    nll: float = Field(0.0, ge=0)  # times the mean negative log-likelihood of a token of chosen, added to the loss

    @property
    def margin_scale(self) -> float:
        return self.beta


class HardObjective(PairObjective):
    """Takes from a pair which response won, and nothing else."""

    def needs(self) -> Needs:
        return Needs(ties=False)


class Rewarded(BaseModel):
    """Methods that read rewards of single responses."""

    rewards: Rewards
    score_annotators: list[str] = []  # whose scores; empty = of all that give any
    standardise: bool = True  # each annotator's scores have mean 0 and deviation 1 over the round, as one logit

    def scores_needed(self) -> tuple[str, ...] | None:
        return tuple(self.score_annotators) if self.rewards == "scores" else None


class IrepoSettings(PairObjective):
    name: Literal["irepo"] = "irepo"
    scale: Literal["reward", "logratio"] = "reward"  # logratio divides the residual by beta: gradients grow by 1/beta^2
    reference: Reference = "previous"  # previous sharpens: after T rounds beta acts as beta/T
    logit: bool = True  # false: the paper's ablation as we read it, P - 1/2 in place of the logit


class DpoSettings(PairObjective):
    name: Literal["dpo"] = "dpo"
    labels: Labels = "hard"  # soft: the empirical preference
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)  # cDPO: share of labels taken to be wrong
    length: Literal["sum", "mean"] = "sum"  # mean: log-ratios a token (LN-DPO; beta is then about 2)
    length_penalty: float = Field(0.0, ge=0)  # R-DPO: times the tokens that chosen has more than rejected

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")


class RdpoSettings(HardObjective):
    name: Literal["rdpo"] = "rdpo"
    flip_rate: float = Field(0.1, ge=0, lt=0.5)  # share of labels taken to be flipped


class OdpoSettings(Rewarded, PairObjective):
    name: Literal["odpo"] = "odpo"
    rewards: Rewards = "target"
    alpha: float = Field(1.0, ge=0)
    offset: Literal["log", "log1p", "identity"] = "log"  # of the reward difference (at least 1e-3)

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed())


class MadpoSettings(Rewarded, PairObjective):
    name: Literal["madpo"] = "madpo"
    rewards: Rewards = "target"  # margins must be on the scale of logits
    c_max: float = Field(2.0, ge=1)
    c_min: float | None = Field(None, gt=0, le=1)  # None = 1 / c_max
    slope: float = Field(1.0, gt=0)  # lambda
    threshold: float = Field(6.906754778648554, gt=0)  # tau = log(.999 / .001): margins below it are amplified

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed())


class BetaDpoSettings(HardObjective):
    name: Literal["beta-dpo"] = "beta-dpo"
    gain: float = Field(0.6, ge=0)  # alpha: how far beta follows the mean gap of the step
    drop: float = Field(0.2, ge=0, lt=1)  # rho: share of pairs left out of each step
    momentum: float = Field(0.9, ge=0, lt=1)  # of the running mean and deviation of the gaps


class FDpoSettings(PairObjective):
    name: Literal["f-dpo"] = "f-dpo"
    divergence: Literal["reverse_kl", "forward_kl", "jsd", "alpha"] = "jsd"
    alpha: float = Field(0.5, gt=0, lt=1)  # of divergence=alpha; the paper tries .3, .5, .7
    labels: Labels = "hard"

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")


class LcpoSettings(PairObjective):
    name: Literal["lcpo"] = "lcpo"
    base: Literal["dpo", "ipo"] = "dpo"  # whose loss is weighted
    by_annotator: bool = True  # a reliability an annotator; false: one for the panel's labels
    reliability: float = Field(0.9, ge=0.5, le=0.999)  # OURS: at the start
    momentum: float = Field(0.1, gt=0, le=1)  # OURS: how far a reliability goes towards each step's mean
    temperature: float = Field(1.0, gt=0)  # OURS: divides the base losses in the posterior; raise it for ipo

    def needs(self) -> Needs:
        return Needs(ties=self.by_annotator, votes=self.by_annotator)


class RpoSettings(PairObjective):
    name: Literal["rpo"] = "rpo"
    pairing: Literal["paired", "unpaired", "diagonal"] = "paired"
    temperature: float = Field(0.5, gt=0)  # tau, of the similarity of prompts
    own_weight: float = Field(0.8, ge=0, le=1)  # diagonal: weight of a pair's own contrast
    embedder: str = PAPERS_EMBEDDER  # folder or hub id of a sentence encoder, or policy: its own hidden states

    def needs(self) -> Needs:
        return Needs(ties=False, embedder=None if self.pairing == "diagonal" else self.embedder)


class BmcSettings(PairObjective):
    name: Literal["bmc"] = "bmc"
    beta: float = Field(0.01, gt=0)
    ceiling: float = Field(1.5, ge=0)  # delta: largest weight that a token's surprise adds
    confidence: Literal["own", "policy"] = "own"  # own: each model's sum by its own weights; policy: by the policy's

    def needs(self) -> Needs:
        return Needs(ties=False, tokens=True, alignment=True)


class DnoSettings(PairObjective):
    name: Literal["dno"] = "dno"
    reference: Literal["previous"] = "previous"  # with another one it is a different method
    labels: Literal["hard", "win_rates"] = "hard"  # win_rates: soft, as in the paper's theory

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "win_rates", win_rates=self.labels == "win_rates")


class SelmSettings(PairObjective):
    name: Literal["selm"] = "selm"
    beta: float = Field(0.01, gt=0)
    alpha: float = Field(1e-3, ge=0)  # of the optimism; large ones collapse
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(ties=False, extra="greedy")


class XpoSettings(PairObjective):
    name: Literal["xpo"] = "xpo"
    alpha: float = Field(5e-6, ge=0)  # of the exploration bonus; 0 is online DPO

    def needs(self) -> Needs:
        return Needs(ties=False, extra="reference")


class SrDpoSettings(PairObjective):
    name: Literal["sr-dpo"] = "sr-dpo"
    base: Literal["dpo", "ipo"] = "dpo"
    weight: float = Field(1.0, ge=0)  # OURS: lambda, times the quality difference
    instruction: str = "Give a helpful, correct and complete answer of high quality."  # OURS: what quality is told by

    def needs(self) -> Needs:
        return Needs(ties=False, previous=True, own_quality=True)


class StepApoSettings(Rewarded, PairObjective):
    name: Literal["step-apo"] = "step-apo"
    rewards: Rewards = "scores"  # advantages

    def needs(self) -> Needs:
        return Needs(ties=False, scores=self.scores_needed())


class TrpaSettings(PairObjective):
    name: Literal["trpa"] = "trpa"
    kappa: float = Field(2.5, gt=0)  # factor of pairs whose chosen response no other of the prompt beats
    kl: float = Field(0.001, ge=0)  # weight of the divergence from the policy that sampled

    def needs(self) -> Needs:
        return Needs(ties=False, previous=True, tokens=True, levels=True)


class SlicSettings(HardObjective):
    name: Literal["slic"] = "slic"
    margin: float = Field(1.0, gt=0)  # delta
    log_ratios: bool = True  # false: of log-probabilities, the classic form (with beta=1 and nll)


class IpoSettings(PairObjective):
    name: Literal["ipo"] = "ipo"
    labels: Labels = "hard"
    length: Literal["sum", "mean"] = "sum"  # mean: log-ratios a token, which the authors used

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft")


class IpoMdSettings(PairObjective):
    name: Literal["ipo-md"] = "ipo-md"
    labels: Labels = "soft"
    mixture: float = Field(0.5, ge=0, le=1)  # share of the reference in what responses are sampled from

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft", mixture=self.mixture)


class SppoSettings(PairObjective):
    name: Literal["sppo"] = "sppo"
    beta: float = Field(1e-3, gt=0)  # 1 / eta
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(win_rates=True)


class RebelSettings(Rewarded, ObjectiveBase):
    name: Literal["rebel"] = "rebel"
    reference: Reference = "previous"
    eta: float = Field(1.0, gt=0)  # log-ratio that one unit of reward is worth
    scale: Literal["reward", "logratio"] = "logratio"  # logratio: the code's; reward: the paper's, divided by eta
    rewards: Rewards = "scores"  # target: then it is iREPO with beta = 1/eta
    nll: float = Field(0.0, ge=0)

    @property
    def margin_scale(self) -> float:
        return 1 / self.eta

    def needs(self) -> Needs:
        return Needs(scores=self.scores_needed())


class GpoSettings(PairObjective):
    name: Literal["gpo"] = "gpo"
    beta: float = Field(1e-3, gt=0)
    reference: Reference = "previous"

    def needs(self) -> Needs:
        return Needs(win_rates=True)


class InpoSettings(ObjectiveBase):
    name: Literal["inpo"] = "inpo"
    reference: Literal["initial"] = "initial"  # the previous policy is the second one
    eta: float = Field(0.005, gt=0)  # the target is 1 / (2 eta) nats
    tau: float | None = Field(None, ge=0)  # weight of the initial policy; None = eta / 3
    labels: Labels = "hard"  # soft: OURS
    nll: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _tau_below_eta(self) -> "InpoSettings":
        if self.tau is not None and self.tau > self.eta:
            raise ValueError("tau is at most eta: the previous policy's weight is (eta - tau) / eta")
        return self

    @property
    def margin_scale(self) -> float:
        return self.eta

    def needs(self) -> Needs:
        return Needs(ties=self.labels == "soft", previous=True)


class AdpoSettings(Rewarded, ObjectiveBase):
    name: Literal["adpo"] = "adpo"
    temperature: float = Field(0.8, gt=0)  # tau, of log-ratios
    length: Literal["sum", "mean"] = "sum"  # mean: log-ratios a token; sums of long responses saturate
    rewards: Rewards = "target"  # target: shares are those of the strengths behind the targets
    reward_temperature: float = Field(0.5, gt=0)  # beta_r, of rewards=scores

    @property
    def margin_scale(self) -> float:
        return 1 / self.temperature

    def needs(self) -> Needs:
        return Needs(scores=self.scores_needed(), listwise=True)


ObjectiveSettings = Annotated[
    IrepoSettings
    | DpoSettings
    | RdpoSettings
    | OdpoSettings
    | MadpoSettings
    | BetaDpoSettings
    | FDpoSettings
    | LcpoSettings
    | RpoSettings
    | BmcSettings
    | DnoSettings
    | SelmSettings
    | XpoSettings
    | SrDpoSettings
    | StepApoSettings
    | TrpaSettings
    | SlicSettings
    | IpoSettings
    | IpoMdSettings
    | SppoSettings
    | RebelSettings
    | GpoSettings
    | InpoSettings
    | AdpoSettings,
    Field(discriminator="name"),
]
