"""Where engines and annotators with several workers run."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.stage import Unkeyed


class ClusterSettings(BaseModel):
    """Where the `workers` of an engine, and of annotators that load models, run. Nothing of it is part of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["none", "ray"] = "none"  # none = on this machine
    address: str = "auto"  # auto = the cluster that this machine is in | local = start one here | host:port | ray://...
    cpus_per_worker: float = Field(1, ge=0)  # that Ray reserves
    # Of an engine. None = engine.tensor_parallel where the cluster has GPUs, else 0. An annotator's worker takes one.
    gpus_per_worker: int | None = Field(None, ge=0)
    place_timeout: float = Field(300, gt=0)  # seconds until a worker must have a place on the cluster


#: A setting that says where workers run. It is not part of the key: shards and scores are the same wherever they are.
Where = Annotated[ClusterSettings, Unkeyed("where workers run")]
