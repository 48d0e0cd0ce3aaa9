"""Flow `irepo-warmup`: the supervised policy that rounds start from.

    python -m flows.warmup showcase=demo seed=0        # the demo's small policy and its reward models, from nothing
    python -m flows.warmup showcase=smollm2            # SmolLM2-135M-Instruct and its prompts, from installed packages
    python -m flows.warmup policy=<folder or id> data=<file> out=<folder> training.learning_rate=2e-5 training.epochs=1

`data` is JSONL, JSONL.gz or Parquet with `messages`, or `prompt` and `completion`. A policy without a chat template
gets one with chat_template=conf/templates/turns.jinja.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.help import exit_on_help, settings_help
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import await_server, start_temporary_server
from flows.show.terminal import console, exit_on_user_error
from flows.warmup_settings import WarmupConfig

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], settings_help("flows.warmup", __doc__ or "", WarmupConfig))
prepare()
if __name__ == "__main__":
    quiet_console()
    exit_on_user_error(start_temporary_server)

from omegaconf import OmegaConf  # noqa: E402
from omegaconf.errors import OmegaConfBaseException  # noqa: E402
from prefect import flow, task  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.cache_policies import NO_CACHE  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from conf.schema import PolicySettings, Showcase  # noqa: E402
from flows.checks import find_policy  # noqa: E402
from storage.conversations import read_training_conversation  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.rows import read_rows  # noqa: E402
from tasks.demo.build import build_demo  # noqa: E402
from tasks.progress import progress_bar  # noqa: E402
from tasks.smollm2.build import build_smollm2  # noqa: E402
from tasks.training.supervised import fine_tune  # noqa: E402


def read_config(words: Sequence[str]) -> WarmupConfig:
    """The words as a WarmupConfig. Raises UserError that names what does not fit."""
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)), resolve=True)
        training = given.setdefault("training", {})
        if not training.keys() & {"steps", "epochs"}:
            training["epochs"] = 1
        return WarmupConfig.model_validate(given)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])} {item['msg']}".strip() for item in error.errors()]
        usage = (
            "python -m flows.warmup showcase=demo, or policy=<folder or id> data=<file> out=<folder> training.epochs=1"
        )
        raise UserError("\n".join(lines), where="command line", remedy=usage) from None
    except OmegaConfBaseException as error:
        raise UserError(str(error), where="command line", remedy="write key=value") from None


def showcase_folder(showcase: Showcase, seed: int) -> Path:
    """Folder of a showcase's policy and prompts; conf/policy/{demo,smollm2}.yaml name the same ones."""
    return Path("artifacts") / (f"demo-{seed}" if showcase == "demo" else showcase)


@task(name="warm up", persist_result=True, result_serializer="json", cache_policy=NO_CACHE)
def make_showcase(showcase: Showcase, seed: int) -> str:
    """Build the showcase's folder unless it exists."""
    folder = showcase_folder(showcase, seed)
    if not folder.exists():
        with progress_bar("warm up", 0) as progress:
            if showcase == "demo":
                build_demo(folder, seed, progress)
            else:
                build_smollm2(folder)
    return str(folder)


@task(name="supervise", persist_result=True, result_serializer="json", cache_policy=NO_CACHE)
def tune(config: WarmupConfig) -> str:
    """Supervised fine-tuning of `config.policy` on `config.data`."""
    assert config.policy is not None  # WarmupConfig checked all three
    assert config.data is not None
    assert config.out is not None
    rows = [(where, read_training_conversation(row, where=where)) for where, row in read_rows(Path(config.data))]
    start = PolicySettings(path=config.policy, revision=config.revision, trust_remote_code=config.trust_remote_code)
    folder = find_policy(start, chat_template=config.chat_template is None)
    with progress_bar("supervise", 0) as progress:
        fine_tune(
            folder,
            [{"messages": messages} for _, messages in rows],
            Path(config.out),
            config.training,
            chat_template=Path(config.chat_template) if config.chat_template else None,
            device=config.device,
            template=config.template_values,
            trust_remote_code=config.trust_remote_code,
            progress=progress,
            sources=[where for where, _ in rows],
        )
    return config.out


@flow(name="irepo-warmup", persist_result=True, result_serializer="json")
def warm_up(overrides: list[str]) -> str:
    """Make an initial policy; returns its folder. overrides: as on the command line."""
    config = read_config(overrides)
    return make_showcase(config.showcase, config.seed) if config.showcase else tune(config)


def main(words: Sequence[str]) -> None:
    read_config(words)
    await_server()
    console.print(f"done: {warm_up(list(words))}")


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
