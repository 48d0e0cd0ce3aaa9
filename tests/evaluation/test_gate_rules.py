"""The automatic gate: each rule can be broken alone; a promoted policy satisfies all rules."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from conf.compose import compose_config, dump_config, validate_config
from storage.errors import UserError
from tasks.evaluation.automatic_gate import decide
from tasks.evaluation.gate import Decision
from tasks.evaluation.gate_rules.base import Check, GateRule, Measured, RoundMetrics
from tasks.evaluation.gate_rules.registry import GATE_RULES, AnyGateRule
from tasks.evaluation.metrics import Metrics

JUDGES = ("truth", "style")
RULES: dict[str, dict[str, Any]] = {
    "better": {"kind": "win_rate", "against": "previous", "least": 0.5},
    "ahead": {"kind": "win_rate", "against": "initial", "judge": "truth", "least": 0.55, "broken": "stop"},
    "near": {"kind": "kl", "most": 3.0, "broken": "stop"},
    "short": {"kind": "length", "against": "initial", "growth": 1.5},
    "steady": {"kind": "length", "against": "previous", "growth": 1.2},
    "finished": {"kind": "finish_rate", "least": 0.9},
    "right": {"kind": "rate", "rate": "correct", "drop": 0.02},
    "kind": {"kind": "rate", "rate": "rude", "against": "initial", "rise": 0.0, "broken": "stop"},
    "able": {"kind": "harness", "drop": 0.01},
}


def rules(**given_rules: dict[str, Any]) -> dict[str, GateRule]:
    checked: dict[str, GateRule] = TypeAdapter(dict[str, AnyGateRule]).validate_python(given_rules or RULES)
    return checked


def interval(mean: float, half: float = 0.04) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 100}


def benchmarks(**values: float) -> dict[str, Any]:
    """Scores of tasks that are better when high, except `perplexity`."""
    scores = {
        task: {"acc,none": {"value": value, "stderr": 0.02, "higher_is_better": task != "perplexity"}}
        for task, value in values.items()
    }
    return {"scores": scores, "average": None}


def figures(**changed: Any) -> dict[str, Any]:
    """Metrics of a round that satisfies RULES, with changes."""
    initial, previous = ({judge: interval(mean) for judge in JUDGES} for mean in (0.8, 0.6))
    return {
        "win_rate": {"initial": initial, "previous": previous},
        "rates": {"correct": interval(0.6), "rude": interval(0.1)},
        "kl": {"mean": 2.5, "se": 0.1, "per_token": 0.2},
        "tokens": 12.0,
        "finish_rate": 0.95,
        "harness": benchmarks(arc=0.5, perplexity=9.0),
    } | changed


def metrics(changed: dict[str, Any]) -> Metrics:
    """Metrics with these values and nothing else."""
    empty: dict[str, Any] = {
        "words": 0.0, "unique_rate": 0.0, "replies": {}, "length": {}, "gap": {}, "categories": {},
        "calibration": None, "displacement": None, "excluded": {"votes": {}, "scores": {}},
    }  # fmt: skip
    return Metrics.model_validate(empty | changed)


def round_metrics(
    now: dict[str, Any], initial: dict[str, Any], previous: dict[str, Any], *, first: bool
) -> RoundMetrics:
    return RoundMetrics(metrics(now), metrics(initial), metrics(previous), first=first, judges=JUDGES)


INITIAL = figures(win_rate={}, tokens=10.0, kl={"mean": 0.0, "se": 0.0, "per_token": 0.0})
PREVIOUS = figures(tokens=11.0)


def decision(
    now: dict[str, Any], *, first: bool = False, patience: int | None = None, rolled_back: int = 0
) -> Decision:
    rival = INITIAL if first else PREVIOUS
    return decide(rules(), round_metrics(now, INITIAL, rival, first=first), patience=patience, rolled_back=rolled_back)


def win(**changed: Any) -> dict[str, Any]:
    return {"win_rate": figures()["win_rate"] | changed}


def test_a_round_that_satisfies_every_rule_is_promoted() -> None:
    result = decision(figures())
    assert (result.action, result.by, result.last) == ("promote", "policy", False)
    assert {reason.rule: reason.holds for reason in result.reasons} == dict.fromkeys(RULES, True)


BREACHES: dict[str, tuple[str, dict[str, Any]]] = {
    "one judge of two": ("better", win(previous={"truth": interval(0.6), "style": interval(0.53)})),
    "a judge that abstained": ("better", win(previous={"truth": interval(0.6)})),
    "its judge": ("ahead", win(initial={"truth": interval(0.58), "style": interval(0.9)})),
    "its judge abstained": ("ahead", win(initial={"style": interval(0.9)})),
    "the mean": ("near", {"kl": {"mean": 3.1, "se": 0.0, "per_token": 0.2}}),
    "the upper end": ("near", {"kl": {"mean": 2.9, "se": 0.1, "per_token": 0.2}}),
    "one prompt": ("near", {"kl": {"mean": 3.1, "se": None, "per_token": 0.2}}),
    "cut replies": ("finished", {"finish_rate": 0.89}),
    "a drop": ("right", {"rates": {"correct": interval(0.57), "rude": interval(0.1)}}),
    "no score": ("right", {"rates": {"rude": interval(0.1)}}),
    "a benchmark": ("able", {"harness": benchmarks(arc=0.48, perplexity=9.0)}),
    "a benchmark that is better when low": ("able", {"harness": benchmarks(arc=0.5, perplexity=9.02)}),
    "a benchmark that was not asked": ("able", {"harness": benchmarks(arc=0.5)}),
    "no benchmark": ("able", {"harness": None}),
    "a rise": ("kind", {"rates": {"correct": interval(0.6), "rude": interval(0.11)}}),
}


@pytest.mark.parametrize("case", BREACHES)
def test_each_rule_fires_alone(case: str) -> None:
    name, changed = BREACHES[case]
    result = decision(figures(**changed))
    assert result.action == "roll back"
    assert [reason.rule for reason in result.reasons if not reason.holds] == [name]
    assert result.note == f"broken: {name}"
    assert result.last == (RULES[name].get("broken") == "stop")


def test_length_is_compared_with_the_rival_that_its_rule_names() -> None:
    now = round_metrics(figures(tokens=14.0), INITIAL, PREVIOUS, first=False)  # 1.4 and 1.27 times
    result = decide(rules(), now, patience=None, rolled_back=0)
    assert [reason.rule for reason in result.reasons if not reason.holds] == ["steady"]
    now = round_metrics(figures(tokens=16.0), INITIAL, figures(tokens=14.0), first=False)  # 1.6 and 1.14 times
    result = decide(rules(), now, patience=None, rolled_back=0)
    assert [reason.rule for reason in result.reasons if not reason.holds] == ["short"]


def test_in_a_first_round_the_policy_before_is_the_initial_one() -> None:
    now = figures(win_rate={"initial": {judge: interval(0.7) for judge in JUDGES}}, tokens=11.5)
    assert decision(now, first=True).action == "promote"
    now["win_rate"]["initial"]["style"] = interval(0.5)
    assert decision(now, first=True).note == "broken: better"


def test_patience_ends_the_run_after_so_many_rounds_without_promotion() -> None:
    late = figures(finish_rate=0.5)
    assert [decision(late, patience=3, rolled_back=n).last for n in range(4)] == [False, False, True, True]
    assert not decision(late, rolled_back=9).last
    assert decision(late, patience=1).reasons[-1].rule == "patience"
    assert decision(figures(), patience=1, rolled_back=5).action == "promote"


shares = st.floats(0, 1)
intervals = st.builds(interval, shares, st.floats(0, 0.3))
rated = st.dictionaries(st.sampled_from(["correct", "rude"]), intervals)
judged = st.dictionaries(st.sampled_from(JUDGES), intervals)
anything = st.fixed_dictionaries(
    {
        "win_rate": st.dictionaries(st.sampled_from(["initial", "previous"]), judged),
        "rates": rated,
        "kl": st.builds(
            lambda mean, se: {"mean": mean, "se": se, "per_token": 0.0}, st.floats(-1, 9), st.none() | st.floats(0, 1)
        ),
        "tokens": st.floats(1, 100),
        "finish_rate": shares,
        "harness": st.none()
        | st.builds(
            lambda values: benchmarks(**values),
            st.dictionaries(st.sampled_from(["arc", "perplexity"]), st.sampled_from([0.0, 0.25, 0.5])),
        ),
    }
)
breaches = st.sampled_from(["roll back", "stop"])
any_rule = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("win_rate"), "against": st.sampled_from(["initial", "previous"]),
         "judge": st.none() | st.sampled_from(JUDGES), "least": st.floats(0, 0.5), "broken": breaches}
    ),
    st.fixed_dictionaries({"kind": st.just("kl"), "most": st.floats(0, 9), "broken": breaches}),
    st.fixed_dictionaries(
        {"kind": st.just("length"), "against": st.sampled_from(["initial", "previous"]), "growth": st.floats(0.5, 9)}
    ),
    st.fixed_dictionaries({"kind": st.just("finish_rate"), "least": shares, "broken": breaches}),
    st.fixed_dictionaries(
        {"kind": st.just("rate"), "rate": st.sampled_from(["correct", "rude"]), "drop": shares,
         "against": st.sampled_from(["initial", "previous"]), "rise": st.none() | shares}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("harness"), "task": st.none() | st.sampled_from(["arc", "perplexity"]),
         "against": st.sampled_from(["initial", "previous"]), "drop": st.sampled_from([0.0, 0.25]), "broken": breaches}
    ),
)  # fmt: skip


def satisfied(rule: dict[str, Any], now: Any, initial: Any, previous: Any, first: bool) -> bool:
    """An independent implementation, from docs/report.md."""
    rival = initial if rule.get("against") == "initial" or first else previous
    match rule["kind"]:
        case "win_rate":
            rates = now["win_rate"].get("initial" if first else rule["against"], {})
            judges = JUDGES if rule["judge"] is None else [rule["judge"]]
            return all(judge in rates and not rates[judge]["low"] < rule["least"] for judge in judges)
        case "kl":
            return bool(now["kl"]["mean"] + 1.96 * (now["kl"]["se"] or 0) <= rule["most"])
        case "length":
            return bool(now["tokens"] <= rival["tokens"] * rule["growth"])
        case "finish_rate":
            return bool(now["finish_rate"] >= rule["least"])
        case "harness":
            scores, rival_scores = (((m["harness"] or {"scores": {}})["scores"]) for m in (now, rival))
            tasks = [rule["task"]] if rule["task"] else [*scores, *rival_scores]
            sign = {"arc": 1.0, "perplexity": -1.0}
            return bool(tasks) and all(
                task in scores and task in rival_scores
                and sign[task] * (rival_scores[task]["acc,none"]["value"] - scores[task]["acc,none"]["value"])
                <= rule["drop"]
                for task in tasks
            )  # fmt: skip
    if rule["rate"] not in now["rates"] or rule["rate"] not in rival["rates"]:
        return False
    one, other = now["rates"][rule["rate"]]["mean"], rival["rates"][rule["rate"]]["mean"]
    return bool(one >= other - rule["drop"] and (rule["rise"] is None or one <= other + rule["rise"]))


@settings(deadline=None)  # on a busy machine the first example may take its time
@given(
    st.dictionaries(st.sampled_from("abcd"), any_rule, min_size=1), anything, anything, anything, st.booleans(),
    st.none() | st.integers(1, 4), st.integers(0, 5),
)  # fmt: skip
def test_a_promoted_policy_satisfies_every_rule_and_no_other_is_promoted(
    chosen: Any, now: Any, initial: Any, previous: Any, first: bool, patience: int | None, rolled_back: int
) -> None:
    metrics_of_round = round_metrics(now, initial, initial if first else previous, first=first)
    result = decide(rules(**chosen), metrics_of_round, patience=patience, rolled_back=rolled_back)
    holds = {name: satisfied(rule, now, initial, previous, first) for name, rule in chosen.items()}
    assert (result.action == "promote") == all(holds.values())
    assert result.action in ("promote", "roll back")  # `stop` would promote
    assert {reason.rule: reason.holds for reason in result.reasons if reason.rule in chosen} == holds
    stopping = any(rule.get("broken") == "stop" and not holds[name] for name, rule in chosen.items())
    exhausted = patience is not None and rolled_back + 1 >= patience
    assert result.last == (not all(holds.values()) and (stopping or exhausted))


def test_the_ready_gate_composes_and_survives_its_copy_in_the_run_folder() -> None:
    config = compose_config(["run=demo", "gate=policy", "gate.rules.near.most=5", "~gate.rules.short"])
    assert list(config.gate.rules) == ["better", "near", "finished"]
    assert config.gate.judges == ("truth", "held-out")
    assert compose_config(["run=demo"]).gate.kind == "none"
    assert validate_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gate=policy", "evaluation=plain"], "rules.better: the evaluation does not have any judge"),
        (["gate=policy", "+gate.rules.w={kind: win_rate, judge: me}"], "'me' (it has: truth, held-out)"),
        (["gate=policy", "+gate.rules.w={kind: win_rate, against: friend}"], "not one of 'initial', 'previous'"),
        (["gate=policy", "+gate.rules.r={kind: rate, rate: corect, drop: 0}"], "'corect' (it has: correct, polite"),
        (["gate=policy", "+gate.rules.r={kind: rate, rate: correct}"], "give drop"),
        (["gate=policy", "~gate.rules"], "there are no rules"),
        (["gate=policy", "+gate.rules.b={kind: harness, drop: 0.01}"], "the harness does not have any task"),
        (
            ["gate=policy", "harness=leaderboard-v1", "+gate.rules.b={kind: harness, task: arc, drop: 0.01}"],
            "'arc' (it has: arc_challenge, hellaswag",
        ),
        (["gate=human", "+gate.patience=2"], "neither rules nor patience"),
    ],
)
def test_rules_that_the_evaluation_cannot_answer_are_refused_at_the_start(words: list[str], named: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(["run=demo", *words])
    assert named in caught.value.what


class WordsRule(GateRule):
    """A rule of a user's own: replies have at most `most` words, and the evaluation has a judge."""

    kind: str = "words"
    most: float = Field(gt=0)

    def check(self, metrics: RoundMetrics) -> Check:
        return Check(metrics.policy.words <= self.most, f"{metrics.policy.words:g} words; at most {self.most:g}")

    def unknown(self, measured: Measured) -> str | None:
        return None if measured.judges else "the evaluation has no judges"


OWN = f"{__name__}:WordsRule"


def test_a_rule_of_a_users_own_is_found_by_its_path_and_decides() -> None:
    config = compose_config(["run=demo", "gate=policy", f"+gate.rules.words={{kind: '{OWN}', most: 3, broken: stop}}"])
    assert config.gate.rules["words"] == WordsRule(kind=OWN, most=3, broken="stop")
    assert validate_config(yaml.safe_load(dump_config(config))) == config
    own = rules(words={"kind": OWN, "most": 3, "broken": "stop"})
    long = round_metrics(figures() | {"words": 4.0}, INITIAL, PREVIOUS, first=False)
    result = decide(own, long, patience=None, rolled_back=0)
    assert (result.action, result.last) == ("roll back", True)
    assert result.reasons[0].says == "4 words; at most 3"


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (f"{{kind: '{OWN}', most: 0}}", "must be more than 0"),
        (f"{{kind: '{OWN}', mst: 3}}", "did you mean most?"),
        (f"{{kind: '{OWN}s', most: 3}}", "has no WordsRules"),
        ("{kind: wordz}", "there is no gate rule 'wordz'"),
    ],
)
def test_settings_of_a_users_rule_are_checked_like_ours(rule: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(["run=demo", "gate=policy", f"+gate.rules.words={rule}"])
    assert named in str(caught.value)


def test_what_a_users_rule_needs_is_checked_at_the_start() -> None:
    with pytest.raises(UserError, match=r"gate\.rules\.words: the evaluation has no judges"):
        compose_config(
            [
                "run=demo",
                "evaluation=plain",
                "gate=policy",
                "~gate.rules.better",
                f"+gate.rules.words={{kind: '{OWN}', most: 3}}",
            ]
        )


def test_our_rules_are_one_file_each() -> None:
    files = {cls.__module__.rpartition(".")[2] for cls in GATE_RULES.ours().values()}
    assert files == set(GATE_RULES.ours())
