"""What `python -m flows.warmup` accepts."""

from pydantic import ConfigDict, model_validator

from conf.schema import Showcase
from tasks.modeling.chat_template import TemplateSettings
from tasks.training.supervised import SupervisedSettings


class WarmupConfig(TemplateSettings):
    """What the command accepts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    showcase: Showcase | None = None  # make one of the project's own
    seed: int = 0  # of showcase=demo
    policy: str | None = None  # folder or hub id to start from
    revision: str | None = None  # of a hub id
    trust_remote_code: bool = False  # run Python code that the policy's folder brings
    data: str | None = None  # JSONL, JSONL.gz or Parquet
    out: str | None = None  # folder of the result
    chat_template: str | None = None  # file; for a policy that has none
    device: str = "auto"  # auto: a GPU if there is one | cpu | cuda
    training: SupervisedSettings = SupervisedSettings(epochs=1)

    @model_validator(mode="after")
    def _whole(self) -> "WarmupConfig":
        missing = [name for name in ("policy", "data", "out") if getattr(self, name) is None]
        if self.showcase is None and missing:
            raise ValueError(f"{', '.join(missing)} missing (or set showcase=demo)")
        return self
