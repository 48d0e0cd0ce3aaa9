"""What is checked before a model is loaded."""

import json
import os
from pathlib import Path

import httpx
from prefect import runtime
from prefect.blocks.system import Secret
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings

from conf.schema import PolicySettings, RunConfig
from flows.checks_evaluation import check_measurable
from flows.data_checks import check_offline, publish_data, show_prompts
from flows.early_checks import annotators_by_place, check_early
from flows.memory_checks import check_memory
from flows.overwrite import refuse_overwrite
from flows.placement_checks import check_placement
from flows.plan import Plan, aligned_from, with_template
from flows.policy_checks import check_policies
from flows.specs import prompts_spec
from storage.errors import UserError
from storage.files import canonical_json, publish_text
from storage.layout import RunLayout
from storage.manifest import MANIFEST
from storage.mirror.background import check_storage
from storage.stage import Spec
from tasks.engines import kept_engine
from tasks.evaluation.harness.settings import check_harness
from tasks.evaluation.mt_bench.questions import check_references, read_questions
from tasks.generation.encode import context_length
from tasks.generation.prompts import prompt_artifacts, run_prompts
from tasks.modeling.conversation import check_turn_end
from tasks.modeling.load import check_policy_folder, check_readable, load_tokenizer
from tasks.panel.chat.preflight import check_servers
from tasks.panel.chat.settings import ChatSettings
from tasks.reporting.cards.hub import check_token
from tasks.reporting.tracking import check_tracker
from tasks.training.embedding import POLICY, find_embedder


def needs_warmup(policy: PolicySettings) -> bool:
    """Whether the project makes the initial policy and has not made it yet."""
    return policy.warmup is not None and not (Path(policy.path) / "config.json").is_file()


def find_policy(policy: PolicySettings, *, chat_template: bool = True) -> Path:
    """The initial policy's folder; a hub id is downloaded first. Raises UserError for a folder that is not a policy.

    chat_template: whether the folder must have a chat template.
    """
    folder = Path(policy.path)
    if not folder.is_dir():
        folder = _download(policy)
    check_policy_folder(folder, trust_remote_code=policy.trust_remote_code, chat_template=chat_template)
    check_readable(folder, trust_remote_code=policy.trust_remote_code)
    return folder


def _download(policy: PolicySettings) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py"]
        return Path(snapshot_download(policy.path, revision=policy.revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"there is no such folder, and the hub has no such model: {str(error).splitlines()[0]}",
            where=f"policy.path={policy.path}",
            remedy="give an existing folder, or check the id, the connection and HF_TOKEN",
        ) from None


def check_keys(config: RunConfig) -> None:
    """See to it that every annotator's API key is in the environment; one that is not may be a secret of Prefect's.

    Keys themselves are never read into the config.
    """
    annotators = annotators_by_place(config)
    grader = config.mt_bench.judge
    if grader is not None and grader.api_key_env and not os.environ.get(grader.api_key_env):
        os.environ[grader.api_key_env] = key_of(grader.api_key_env, "mt_bench.judge")
    for place, settings in annotators.items():
        for variable in settings.key_variables():
            if not os.environ.get(variable):
                os.environ[variable] = key_of(variable, place)


def key_of(variable: str, annotator: str) -> str:
    """The value of the Secret block `openai-api-key` for the variable OPENAI_API_KEY."""
    block = variable.lower().replace("_", "-")
    try:
        value = Secret.load(block).get()  # type: ignore[union-attr]
    except (ValueError, PrefectException, httpx.HTTPError):
        value = ""
    if not value:
        raise UserError(
            f"the key of {annotator!r} is not set",
            where=f"environment variable {variable}",
            remedy=f"export {variable}=... before starting the run, or keep it as Prefect's Secret block {block!r}",
        )
    return str(value)


def chat_models(config: RunConfig) -> dict[str, ChatSettings]:
    """The chat models behind endpoints that a run asks, by their place in the configuration."""
    annotators = {
        **annotators_by_place(config),
        **({} if config.mt_bench.judge is None else {"mt_bench.judge": config.mt_bench.judge}),
    }
    return {
        place: settings
        for place, settings in annotators.items()
        if isinstance(settings, ChatSettings) and settings.backend == "endpoint"
    }


def prepare_run(config: RunConfig) -> Plan:
    """Check the run and publish its prompts; returns its plan. Raises UserError for what cannot work."""
    check_result_store()
    check_early(config)
    check_keys(config)
    if not config.dry_run:  # there the probe asks them
        check_servers(chat_models(config))
    check_placement(config.placement)
    check_tracker(config.tracker)
    check_storage(config.storage, RunLayout.of(config.runs, config.name).root)
    check_harness(config.harness)
    if config.mt_bench.questions is not None:
        check_references(read_questions(config.mt_bench.questions, config.mt_bench.references))
    if config.push_to_hub or config.push_preferences_to_hub:
        check_token("push_to_hub, push_preferences_to_hub")
    embedder = config.objective.needs().embedder
    if embedder not in (None, POLICY):
        find_embedder(embedder)
    data = config.data.artifact() if config.data is not None else None
    prompts = prompt_artifacts(config.prompts) if data is None else None
    plan = open_plan(config)
    if config.policy.aligned_from:
        check_policy_folder(plan.before_initial.path, trust_remote_code=config.policy.trust_remote_code)
    check_policies(config, plan)
    placed = config.placement.pools()
    if "generate" not in placed and "train" not in placed:  # on this machine
        check_memory(config, plan.initial.path)
    trusted = config.policy.trust_remote_code
    for policy in (plan.initial, *plan.named.values()):
        if "generate" not in placed:
            kept_engine(config.engine, config.cluster, trust_remote_code=trusted).check(policy.path)
        check_turn_end(load_tokenizer(policy.path, trust_remote_code=trusted), stop=config.sampling.stop)
    context = config.engine.max_model_len or context_length(plan.initial.path, trust_remote_code=trusted)
    first: list[Spec] = [publish_data(plan, data)] if data is not None else []
    spec = prompts_spec(plan, *(prompts or prompt_artifacts(config.prompts)), context=context)
    check_offline(plan)
    refuse_overwrite(plan, [*first, spec])
    show_prompts(spec.folder, run_prompts(spec))
    check_measurable(config, spec.folder)
    return plan


def open_plan(config: RunConfig) -> Plan:
    """The plan of a run; policies that are hub ids are downloaded. Raises UserError for one that does not exist."""
    trusted = config.policy.trust_remote_code
    named = {
        name: with_template(
            config, f"against/{name}", find_policy(PolicySettings(path=path, trust_remote_code=trusted))
        )
        for name, path in config.evaluation.against.items()
    }
    initial = with_template(config, "initial", find_policy(config.policy), strict=True)
    return Plan(config, initial, aligned_from(config), named)


def finished_rounds(layout: RunLayout) -> int:
    """The number of rounds, from the first on, that have the manifest of their evaluation."""
    number = 0
    while (layout.stage(number + 1, "evaluate") / MANIFEST).is_file():
        number += 1
    return number


def rounds_wanted(layout: RunLayout, more: int) -> int:
    """`more` rounds beyond those that the run had when this flow run started: a retry adds no further ones."""
    file = layout.root / "wanted.json"
    wanted: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    flow_run = str(runtime.flow_run.id)
    if flow_run not in wanted:
        wanted[flow_run] = finished_rounds(layout) + more
        publish_text(file, canonical_json(wanted) + "\n")
    return wanted[flow_run]


def check_result_store() -> None:
    """Refuse a result store that cannot be written: Prefect would only log that, and keep no results."""
    store = get_current_settings().results.local_storage_path
    try:
        store.mkdir(parents=True, exist_ok=True)
        publish_text(store / ".writable", "")
    except OSError as error:
        raise UserError(
            f"Prefect's result store cannot be written: {error.strerror}",
            where=f"PREFECT_RESULTS_LOCAL_STORAGE_PATH={store}",
            remedy="free space there, fix its permissions, or name another folder in that variable",
        ) from None
