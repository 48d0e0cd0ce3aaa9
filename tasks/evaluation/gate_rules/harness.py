"""Benchmark scores have not become worse than a rival's."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tasks.evaluation.gate_rules.base import Check, GateRule, Measured, Rival, RoundMetrics, missing
from tasks.evaluation.harness.stage import Score
from tasks.evaluation.metrics import Metrics


class HarnessRule(GateRule):
    """Scores of lm-eval are at most `drop` worse than the rival's: of one task, or (task: null) of every one.

    A task is compared in each of its metrics. If a metric is better when low, such as perplexity, worse is higher.
    """

    kind: Literal["harness"] = "harness"
    task: str | None = None
    against: Rival = "initial"
    drop: float = Field(ge=0)  # in units of the metric: 0.01 is one point of accuracy

    def check(self, metrics: RoundMetrics) -> Check:
        now, before = _scores(metrics.policy), _scores(metrics.of(self.against))
        tasks = set(now) | set(before) if self.task is None else {self.task}
        holds, complaints = bool(tasks & set(now)), []
        for task in sorted(tasks):
            for metric in sorted({*now.get(task, {}), *before.get(task, {})}):
                score, rival = now.get(task, {}).get(metric), before.get(task, {}).get(metric)
                if score is None or rival is None:
                    holds = False
                    complaints.append(f"{task} {metric} was not measured of both policies")
                    continue
                loss = rival.value - score.value
                if not (loss if score.higher_is_better else -loss) <= self.drop:
                    holds = False
                    complaints.append(f"{task} {metric} {score.value:.4g} against {rival.value:.4g} of {self.against}")
        summary = f"{len(tasks)} compared with {self.against}" if holds else "nothing was measured"
        return Check(holds, f"benchmarks: {', '.join(complaints) or summary}; at most {self.drop:g} worse")

    def unknown(self, measured: Measured) -> str | None:
        if self.task is None:
            return None if measured.tasks else f"the harness {missing('any task', ())}"
        if self.task in measured.tasks:
            return None
        return f"the harness {missing(f'the task {self.task!r}', measured.tasks)}"


def _scores(metrics: Metrics) -> Mapping[str, Mapping[str, Score]]:
    return metrics.harness.scores if metrics.harness else {}
