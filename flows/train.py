"""Flow `irepo-train`: offline training on a preference set, evaluated and reported like a round.

    python -m flows.train policy=<folder or id> data=<file, folder or hub id> objective=dpo name=mine
    python -m flows.train policy=<id> data=<hub id> data.split=train training=lora training.learning_rate=5e-6
    python -m flows.train ... prompts.heldout=0.05 evaluation=judge
    python -m flows.train ... dry_run=plan

The same command continues a run that stopped. Rounds on the policy's own responses follow with `flows.iterate`.
"""

import shlex
import sys
from collections.abc import Sequence

from conf.compose import compose_config
from flows.early_checks import check_early
from flows.help import exit_on_help, run_help
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import start_temporary_server
from flows.show.terminal import console, exit_on_user_error
from flows.train_words import DEFAULTS, ROUNDS_ONLY, train_words

if __name__ == "__main__":
    _OPTIONS = {**DEFAULTS, "data": "file"}
    exit_on_help(sys.argv[1:], run_help("flows.train", __doc__ or "", defaults=_OPTIONS, without=ROUNDS_ONLY))
prepare()
if __name__ == "__main__":
    quiet_console()
    # Refuse a mistyped word, and what can be known from the configuration, before the slow imports below.
    exit_on_user_error(lambda: check_early(compose_config(train_words(sys.argv[1:]))))
    # The server starts while this process imports the rest.
    exit_on_user_error(start_temporary_server)

from prefect import flow  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.states import State  # noqa: E402

from flows.iterate import play, run_command  # noqa: E402
from flows.operations.liveness import supervise_this_run  # noqa: E402
from flows.parameters import Data, Name, Objective, Override, Policy, Seed, as_words  # noqa: E402
from flows.run_names import name_after  # noqa: E402
from flows.served import compose_served  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402


@flow(name="irepo-train", persist_result=True, result_serializer="json")
def irepo_train(
    policy: Policy | None = None,
    data: Data | None = None,
    split: str | None = None,
    objective: Objective | None = None,
    name: Name | None = None,
    seed: Seed | None = None,
    overrides: list[Override] = [],  # noqa: B006  (Prefect shows the default in the form)
) -> list[RoundRecord] | State[None]:
    """Train a policy on a preference set; returns the records of the initial policy and of the round.

    Args:
        policy: folder or Hugging Face id of the policy to train.
        data: preference set: a file, a folder or, with `split`, a data set's id on the hub.
        split: of a folder or of a data set on the hub.
        objective: what training minimizes, a file of conf/objective.
        name: of the run folder below runs/. The name of an earlier run continues it.
        seed: of the training order and of held-out replies.
        overrides: as on the command line, e.g. training.learning_rate=1e-6. They take precedence over the fields above.
    """
    supervise_this_run()
    fields = {"policy": policy, "data": data, "data.split": split, "objective": objective, "name": name, "seed": seed}
    config = compose_served(train_words(as_words(overrides, **fields)))
    name_after(config, overrides)
    check_early(config)  # before it waits for the device
    return play(config)


def main(words: Sequence[str]) -> None:
    """The command: train, then say what can be done with the policy."""
    command = f"python -m flows.train {shlex.join(words)}".strip()
    if run_command(command, train_words(words), irepo_train):
        config = compose_config(train_words(words))
        folder = config.runs / config.name
        lines = [
            f"talk to it:       python -m flows.chat {folder} --against initial",
            f"pass it on:       python -m flows.export {folder} <folder> --dtype bfloat16",
            f"rounds from here: python -m flows.iterate name=<name> policy={folder / 'policy'} "
            f"policy.aligned_from={config.policy.path} prompts=<file>",
        ]
        console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
