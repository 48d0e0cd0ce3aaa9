"""Flow `irepo-compare`: several methods on the same prompts, seeds and panel.

    python -m flows.compare methods=[irepo,dpo,ipo,sppo] seeds=[0,1,2] run=demo rounds=2
    python -m flows.compare methods="[irepo, irepo objective.beta=0.3, dpo]" name=strengths run=demo

A method is a word of conf/objective, followed by overrides. Each method and seed is a run of its own,
runs/<name>/<method>-<seed>, and continues where it stopped; what does not depend on the method (prompts, the initial
policy's evaluation, round 1's responses and votes) is made once a seed. Results: compare.json, and a figure for each
judge with its win rates and mean scores over KL (for the demo's `truth`: utility); methods.svg shows the first judge.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml

from conf.compose import group_options
from conf.schema import RunConfig
from flows.help import exit_on_help, run_help
from flows.operations.environment import prepare, quiet_console
from flows.operations.temporary_server import await_server, start_temporary_server
from flows.show.terminal import console, exit_on_user_error, markdown_table

if __name__ == "__main__":
    _WORDS = (
        ("methods=[...]", "words of objective=, each with overrides: [irepo, dpo objective.beta=0.3]; required"),
        ("seeds=[0]", "every method runs with each of them"),
        ("name=compare", "folder below runs= with all runs and the comparison"),
    )
    exit_on_help(sys.argv[1:], run_help("flows.compare", __doc__ or "", _WORDS))
prepare()
if __name__ == "__main__":
    quiet_console()
    exit_on_user_error(start_temporary_server)

from prefect import flow  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from prefect.states import State  # noqa: E402
from pydantic import Field  # noqa: E402
from rich.box import SIMPLE_HEAD  # noqa: E402
from rich.table import Table  # noqa: E402

from flows.iterate import irepo  # noqa: E402
from flows.parameters import Name, Override, Preset, Rounds, Seed, as_words, refusing  # noqa: E402
from flows.round import list_stages  # noqa: E402
from flows.served import FORBIDDEN, compose_served  # noqa: E402
from storage.artifact import SPEC, artifacts  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.files import canonical_json, digest, parse_yaml, publish_text, sync_folder, yaml_text  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from storage.manifest import MANIFEST, BrokenManifest, read_manifest  # noqa: E402
from storage.stage import Spec  # noqa: E402
from tasks.evaluation.record import RoundRecord  # noqa: E402
from tasks.reporting.comparison import KL, Value, by_round, over_kl, worth, write_figure  # noqa: E402

_LONGEST = 100  # characters of a method in a folder's name
_COLUMNS = 4  # methods in one table on the terminal
_INTERVALS = "mean over seeds with 95 % intervals; for one seed, over prompts"

Method = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": refusing(FORBIDDEN)})]


@flow(name="irepo-compare", persist_result=True, result_serializer="json")
def compare(
    methods: list[Method],
    seeds: list[Seed] = [0],  # noqa: B006  (Prefect shows the default in the form)
    preset: Preset | None = None,
    name: Name = "compare",
    rounds: Rounds | None = None,
    overrides: list[Override] = [],  # noqa: B006
) -> dict[str, Any]:
    """Run every method with every seed and compare them. Finished stages are kept.

    Args:
        methods: words of conf/objective, each optionally followed by overrides: "irepo objective.beta=0.3".
        seeds: of prompts, samples and training; the same for every method.
        preset: a file of conf/run to start from.
        name: of the folder below runs/ that holds all runs and the comparison.
        rounds: number of rounds of each run.
        overrides: as on the command line, for every run.
    """
    words = as_words(overrides, run=preset, rounds=rounds)
    _check_methods(methods)
    folder = RunLayout.of(compose_served([*words, *objective_words(methods[0])]).runs, name).root
    runs: dict[str, list[list[RoundRecord]]] = {slug(method): [] for method in methods}
    for seed in seeds:
        # Compose all first: a mistake in the last method is reported before the first one runs.
        run_words = {method: [*words, *_run_words(method, seed, folder)] for method in methods}
        configs = {method: compose_served(run_words[method]) for method in methods}
        first = configs[methods[0]]
        for method, config in configs.items():
            share_answers(folder, config.name)
            share(folder / first.name, folder / config.name, shared_stages(first, config))
            records = irepo.with_options(flow_run_name=config.name)(overrides=run_words[method])
            if isinstance(records, State):
                raise UserError(
                    f"{config.name} waits for people: {records.message}",
                    where=str(folder / config.name),
                    remedy="have them vote, then give the same command again",
                )
            runs[slug(method)].append(records)
    return publish(folder, {method: by_round(records) for method, records in runs.items()})


def _check_methods(methods: Sequence[str]) -> None:
    """Raises UserError when there is no method, for one that irepo does not have, and for two that are the same."""
    if not methods:
        raise UserError("no methods are named", where="methods", remedy="methods=[irepo,dpo], of conf/objective")
    for method in methods:
        objective_words(method)
    if len({slug(method) for method in methods}) < len(methods):
        raise UserError("two methods are the same", where="methods", remedy="name each method once")


def _run_words(method: str, seed: int, folder: Path) -> list[str]:
    """Words of the configuration for the run of a method and seed, below `folder`."""
    return [*objective_words(method), f"seed={seed}", f"runs={folder}", f"name={slug(method)}-{seed}"]


def slug(method: str) -> str:
    """The method as a folder's name: letters, digits, dots and dashes.

    A long one is cut and ends in a digest of the whole: file systems take 255 bytes.
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", method).strip("-.")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 13].strip('-.')}-{digest(method)[:12]}"


def objective_words(method: str) -> list[str]:
    """The overrides of a method. Raises UserError for an unknown objective."""
    objective, *more = (word for word in apart(method, " ") if word)
    if objective not in group_options("objective"):
        raise UserError(
            f"there is no method {objective!r}",
            where="methods",
            remedy=f"choose among: {', '.join(group_options('objective'))}",
        )
    return [f"objective={objective}", *more]


def shared_stages(one: RunConfig, other: RunConfig) -> list[str]:
    """Folders of the stages that both runs share according to their configurations, up to the first difference.

    When such a stage is adopted, its key decides whether it really is the same.
    """
    folders: list[Path] = []
    root = RunLayout.of(one.runs, one.name).root
    for stage, counterpart in zip(list_stages(one), list_stages(other), strict=False):
        if stage.key() != counterpart.key() or _outside(stage) != _outside(counterpart):
            break
        folders.append(stage.folder.relative_to(root))
    outer = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    return [folder.as_posix() for folder in outer]


def _outside(spec: Spec) -> list[Path]:
    """The files and folders from outside the run that a stage reads; their content is not looked at here."""
    read = [artifacts(name, getattr(spec, name)) for name in type(spec).model_fields]
    return [artifact.path for made in read for artifact in made.values() if artifact.maker is None]


def share_answers(folder: Path, run: str) -> None:
    """Let a run keep the answers of judges with those of all runs of the comparison: none is asked for twice."""
    answers, link = folder / RunLayout.of(folder, run).answers.name, RunLayout.of(folder, run).answers
    answers.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(Path("..") / answers.name)


def share(source: Path, target: Path, folders: Sequence[str]) -> None:
    """Link those of `folders` into `target` that `source` has finished and `target` lacks.

    Files that a manifest names are hard links, which is safe: they are replaced, never written in place. Other files,
    such as people's votes, are not shared. The target gets a spec.yaml of its own, with its own paths.
    """
    for name in folders if source != target else ():
        made, wanted = source / name, target / name
        if (made / MANIFEST).is_file() and not wanted.exists():
            wanted.parent.mkdir(parents=True, exist_ok=True)
            temporary = wanted.with_name(f".{wanted.name}.{os.getpid()}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                for manifest in sorted(made.rglob(MANIFEST)):
                    _share_stage(manifest.parent, temporary / manifest.parent.relative_to(made), source, target)
                temporary.replace(wanted)
            except (BrokenManifest, FileNotFoundError, yaml.YAMLError):  # damaged: the target makes it
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(wanted.parent)


def _share_stage(made: Path, wanted: Path, source: Path, target: Path) -> None:
    spec = parse_yaml((made / SPEC).read_text(encoding="utf-8"))
    publish_text(wanted / SPEC, yaml_text(_moved(spec, str(source), str(target))))
    for path in [entry.path for entry in read_manifest(made, check_files=False).files] + [MANIFEST]:
        (wanted / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(made / path, wanted / path)


def _moved(value: Any, source: str, target: str) -> Any:
    """The content of a spec.yaml with the paths of another run folder."""
    if isinstance(value, dict):
        return {key: _moved(inner, source, target) for key, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, source, target) for inner in value]
    if isinstance(value, str) and (value == source or value.startswith(f"{source}/")):
        return target + value[len(source) :]
    return value


def publish(folder: Path, methods: dict[str, list[dict[str, Value]]]) -> dict[str, Any]:
    """Write compare.json and the figures, print results by round and for the last one, and show them in the UI."""
    plain = {
        method: [{name: {"mean": v.mean, "half": v.half} for name, v in each.items()} for each in rounds]
        for method, rounds in methods.items()
    }
    publish_text(folder / "compare.json", canonical_json(plain) + "\n")
    last = {method: rounds[-1] for method, rounds in methods.items()}
    names = list(dict.fromkeys(name for figures in last.values() for name in figures))
    drawn = worth(names)
    for figure in drawn:
        file = "methods" if figure == drawn[0] else slug(figure)
        write_figure(over_kl(methods, figure), folder / f"{file}.svg")
    shown = [KL, *drawn]
    rows = [
        [method, str(number), *(str(each.get(name, "-")) for name in shown)]
        for method, rounds in methods.items()
        for number, each in enumerate(rounds, start=1)
    ]
    by_rounds = Table(title=f"by round ({_INTERVALS})", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "round", *shown):
        by_rounds.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for row in rows:
        by_rounds.add_row(*row)
    console.print(by_rounds)
    cells = [[method, *(str(figures.get(name, "-")) for name in names)] for method, figures in last.items()]
    for start in range(0, len(last), _COLUMNS):
        some = dict(list(last.items())[start : start + _COLUMNS])
        table = Table(title=f"after the last round ({_INTERVALS})", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("", *some):
            table.add_column(heading, justify="right" if heading else "left", overflow="fold")
        for name in names:
            table.add_row(name, *(str(figures.get(name, "-")) for figures in some.values()))
        console.print(table)
    told = [*markdown_table(["", "round", *shown], rows), "", *markdown_table(["", *names], cells)]
    create_markdown_artifact("\n".join(told), f"{slug(folder.name).lower()}-methods")
    console.print(f"compared: {folder / 'compare.json'}", soft_wrap=True)
    return plain


def main(words: Sequence[str]) -> None:
    """The command: `methods=[...]`, `seeds=[...]`, `name=`, and words of the configuration for every run."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if "methods" not in given:
        raise UserError("no methods are named", where="command line", remedy="methods=[irepo,dpo], of conf/objective")
    methods, seeds = (_listed(given.get(key, default)) for key, default in (("methods", ""), ("seeds", "[0]")))
    if not all(seed.isdecimal() for seed in seeds):
        raise UserError("a seed is no number", where=f"seeds={given['seeds']}", remedy="seeds=[0,1,2]")
    rest = [word for word in words if word.partition("=")[0] not in ("methods", "seeds", "name")]
    _check_methods(methods)
    await_server()
    compare(methods, [int(seed) for seed in seeds], name=given.get("name", "compare"), overrides=rest)


def _listed(text: str) -> list[str]:
    return [item for item in apart(text.strip().removeprefix("[").removesuffix("]"), ",") if item]


def apart(text: str, separator: str) -> list[str]:
    """`text` cut at the separator (one character) where it is outside brackets, braces and quotes; ends stripped."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "'\"":
            quote = "" if character == quote else quote or character
        depth += 0 if quote else (character in "[{(") - (character in ")}]")
        if character == separator and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


if __name__ == "__main__":
    exit_on_user_error(lambda: main(sys.argv[1:]))
