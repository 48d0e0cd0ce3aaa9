"""Specs of what an evaluation may have besides held-out prompts: lm-eval's tasks, and MT-Bench."""

from conf.schema import RunConfig
from flows.digests import what_it_reads
from flows.plan import Plan
from storage.files import sha256_file
from storage.manifest import folder_digest
from tasks.evaluation.harness.settings import HarnessRunSettings, HarnessSpec, ModelSettings, harness_version
from tasks.evaluation.mt_bench.dialogue import FILE as DIALOGUES_FILE
from tasks.evaluation.mt_bench.dialogue import DialogueSettings, DialogueSpec
from tasks.evaluation.mt_bench.grading import GradeSettings, GradeSpec


def benchmark_stages(config: RunConfig) -> list[str]:
    """Folders of an evaluation's stages for benchmarks."""
    found = ["harness"] if config.harness.tasks else []
    return [*found, *(["dialogues", "grades"] if config.mt_bench.questions else [])]


def mt_bench_specs(plan: Plan, round_number: int, policy: str) -> tuple[DialogueSpec, GradeSpec] | None:
    """MT-Bench's answers by the policy of a round, whose digest is `policy`, and their grades."""
    asked, folder = plan.config.mt_bench, plan.layout.stage(round_number, "evaluate")
    if asked.questions is None or asked.judge is None:
        return None
    references = {"references": sha256_file(asked.references)} if asked.references else {}
    dialogue = DialogueSpec(
        folder=folder / "dialogues",
        round=round_number,
        seed=plan.config.seed + 1,
        inputs={"policy": policy, "questions": sha256_file(asked.questions)} | references,
        settings=DialogueSettings(
            max_tokens=asked.max_tokens,
            engine=plan.config.engine,
            trust_remote_code=plan.config.policy.trust_remote_code,
        ),
        policy=plan.policy(round_number),
        questions=asked.questions,
        references=asked.references,
    )
    read = what_it_reads(asked.judge)
    grade = GradeSpec(
        folder=folder / "grades",
        round=round_number,
        seed=plan.config.seed,
        inputs={"judge": read} if read else {},
        settings=GradeSettings(judge=asked.judge),
        dialogues=dialogue.folder / DIALOGUES_FILE,
        answers=plan.layout.answers,
    )
    return dialogue, grade


def harness_spec(plan: Plan, round_number: int, policy: str) -> HarnessSpec | None:
    """lm-eval's tasks on the policy of a round, whose digest is `policy`; None where none is asked."""
    harness, engine = plan.config.harness, plan.config.engine
    if not harness.tasks:
        return None
    folders = {f"include:{number}": folder_digest(folder) for number, folder in enumerate(harness.include)}
    files = {f"data:{task}": sha256_file(path) for task, path in harness.data.items()}
    return HarnessSpec(
        folder=plan.layout.stage(round_number, "evaluate") / "harness",
        round=round_number,
        seed=0,  # lm-eval has its own
        inputs={"policy": policy, "lm_eval": harness_version() or "?"} | folders | files,
        settings=HarnessRunSettings(
            harness=harness,
            model=ModelSettings(
                dtype=engine.dtype,
                device=plan.config.training.device,
                max_model_len=engine.max_model_len,
                enforce_eager=engine.enforce_eager,
                tensor_parallel=engine.tensor_parallel,
                gpu_memory_utilization=engine.gpu_memory_utilization,
                kv_cache_gib=engine.kv_cache_gib,
                trust_remote_code=plan.config.policy.trust_remote_code,
            ),
        ),
        policy=plan.policy(round_number),
    )
