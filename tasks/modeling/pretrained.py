"""The only module that has transformers or datasets read a folder or a hub id: what is read there is data, not code.

Unless it is told, transformers asks on the terminal whether code of the folder may run. Here it is always told, False
unless a setting says otherwise, and a folder that names code is refused before transformers opens it. Weights are read
from safetensors only: pickled weights can run code.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from storage.errors import UserError
from tasks.modeling.json_files import read_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

#: Causal language model, sequence classifier, encoder without a head.
Head = Literal["causal", "classifier", "encoder"]

_FILES = ("config.json", "tokenizer_config.json")
#: Fields that may name a kernel on the hub, as "owner/name", which is compiled code.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def refuse_code(source: Path | str) -> None:
    """Raise UserError if the folder or hub id names Python code or a kernel of its own. Nothing of it is run.

    Raises OSError or ValueError for a hub id that cannot be read.
    """
    for file, values in _configurations(source):
        for place, key, value in _entries(values):
            if key == "auto_map":
                what = f"brings its own Python code ({place} in {file})"
            elif key in _KERNELS and any("/" in name for name in _names(value)):
                what = f"names a kernel to download and run ({place} in {file})"
            else:
                continue
            raise UserError(
                f"the model {what}",
                where=str(Path(source) / file),
                remedy="if you trust this code, set policy.trust_remote_code=true, or trust_remote_code: true of the "
                f"annotator that names this model; if the model needs none of it, delete {place} from {file}",
            )


@contextmanager
def _as_value_error() -> Iterator[None]:
    """A damaged folder makes transformers raise anything, such as ZeroDivisionError: a ValueError from here on."""
    try:
        yield
    except (UserError, OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {(str(error) or 'no reason').strip()}") from error


def read_config(source: Path | str, *, trust_remote_code: bool = False, **options: Any) -> "PreTrainedConfig":
    """A model's configuration. Raises UserError as `refuse_code`, and what AutoConfig raises (OSError, ValueError)."""
    from transformers import AutoConfig

    if not trust_remote_code:
        refuse_code(source)
    with _as_value_error():
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **options)
    return config


def read_tokenizer(source: Path | str, *, trust_remote_code: bool = False, **options: Any) -> "PreTrainedTokenizerBase":
    """A tokenizer. Raises UserError as `refuse_code`, and what AutoTokenizer raises (OSError, ValueError)."""
    from transformers import AutoTokenizer

    if not trust_remote_code:
        refuse_code(source)
    with _as_value_error():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code, **options
        )
    return tokenizer


def read_model(
    head: Head, source: Path | str, *, trust_remote_code: bool = False, **options: Any
) -> "tuple[PreTrainedModel, dict[str, Any]]":
    """A model, and transformers' report: missing_keys, unexpected_keys, mismatched_keys.

    options: of from_pretrained. Raises UserError as `refuse_code`, and OSError or ValueError when it cannot be read.
    """
    import transformers

    if not trust_remote_code:
        refuse_code(source)
    if "gguf_file" not in options:
        options["use_safetensors"] = True
    classes: dict[Head, Any] = {
        "causal": transformers.AutoModelForCausalLM,
        "classifier": transformers.AutoModelForSequenceClassification,
        "encoder": transformers.AutoModel,
    }
    with _as_value_error():
        loaded = classes[head].from_pretrained(
            source, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    return cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)  # a pair because of output_loading_info


def read_dataset(name: str, *, split: str, **options: Any) -> "Dataset":
    """One split of a data set on the hub, or of files. Raises what load_dataset raises; it runs no scripts."""
    from datasets import load_dataset

    return cast("Dataset", load_dataset(name, split=split, **options))  # one split is not a dictionary of splits


def _configurations(source: Path | str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file, content) of the files in which a model can name code."""
    folder = Path(source)
    if folder.is_dir():
        yield from ((name, read_json(folder / name)) for name in _FILES if (folder / name).is_file())
        return
    from transformers import PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    yield _FILES[0], PreTrainedConfig.get_config_dict(source)[0]
    yield _FILES[1], get_tokenizer_config(str(source))


def _entries(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted place, key, value) of every entry with a value, nested ones too."""
    for key, value in values.items():
        if value:
            yield above + key, key, value
        if isinstance(value, Mapping):
            yield from _entries(value, f"{above}{key}.")


def _names(value: Any) -> list[str]:
    return [str(name) for name in (value.values() if isinstance(value, Mapping) else [value])]
