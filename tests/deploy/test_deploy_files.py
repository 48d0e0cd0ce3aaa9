"""Files of deploy/: rendered as their programs render them, and checked against Kubernetes' own schemas."""

import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.client.schemas.actions import DeploymentCreate, WorkPoolCreate
from prefect.utilities.templating import apply_values, find_placeholders

from conf.compose import compose_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = json.loads(gzip.decompress((ROOT / "tests/assets/kubernetes-1.36.schema.json.gz").read_bytes()))
KINDS = {
    "Job": "io.k8s.api.batch.v1.Job",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "PodTemplate": "io.k8s.api.core.v1.PodTemplateSpec",
}


def check(kind: str, resource: dict[str, Any]) -> None:
    jsonschema.validate(resource, SCHEMAS | {"$ref": f"#/$defs/{KINDS[kind]}"})


def template() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEPLOY / "kubernetes/base-job-template.json").read_text(encoding="utf-8"))
    return content


def job(**variables: Any) -> dict[str, Any]:
    """The job of a flow run, as Prefect's worker fills in the template."""
    content = template()
    defaults = {k: v["default"] for k, v in content["variables"]["properties"].items() if "default" in v}
    values = defaults | {"command": "prefect flow-run execute", "name": "one", "env": {"A": "b"}} | variables
    rendered: dict[str, Any] = apply_values(content["job_configuration"], values)
    manifest: dict[str, Any] = rendered["job_manifest"]
    return manifest


def test_the_job_template_is_one_that_prefect_takes() -> None:
    content = template()
    WorkPoolCreate(name="gpu", type="kubernetes", base_job_template=content)
    variables = content["variables"]["properties"]
    used = {each.name for each in find_placeholders(content["job_configuration"])}
    assert used == set(variables), "a variable that nothing uses, or a placeholder without a variable"
    deployment = DeploymentCreate(
        name="train", flow_id="7d5b0c52-7a0e-4d0c-8a6e-0f2f6f0d8e10", job_variables={"gpus": 8}
    )
    deployment.check_valid_configuration(content)
    deployment.job_variables = {"gpus": "eight"}
    with pytest.raises(jsonschema.ValidationError, match="'eight' is not of type 'integer'"):
        deployment.check_valid_configuration(content)


@pytest.mark.parametrize("variables", [{}, {"gpus": 0, "service_account_name": "irepo", "node_selector": {"a": "b"}}])
def test_its_job_is_one_that_kubernetes_takes(variables: dict[str, Any]) -> None:
    made = job(**variables)
    made["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "b"}]  # as the worker writes it
    check("Job", made)
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == variables.get("gpus", 1)
    with pytest.raises(jsonschema.ValidationError):
        check("Job", made | {"spec": made["spec"] | {"backofLimit": 0}})


def test_claims_and_ray_clusters_are_ones_that_kubernetes_takes() -> None:
    for resource in yaml.safe_load_all((DEPLOY / "kubernetes/runs.yaml").read_text(encoding="utf-8")):
        check(resource["kind"], resource)
    cluster = yaml.safe_load((DEPLOY / "kubernetes/ray-cluster.yaml").read_text(encoding="utf-8"))
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    for group in (cluster["spec"]["headGroupSpec"], workers):
        check("PodTemplate", group["template"])
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes text only"
    ray = re.search(r"^ray==([\d.]+)", (ROOT / "requirements/ray.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert ray is not None
    assert cluster["spec"]["rayVersion"] == ray[1]
    claim = template()["variables"]["properties"]["runs_claim"]["default"]
    assert {volume["persistentVolumeClaim"]["claimName"] for group in (cluster["spec"]["headGroupSpec"], workers)
            for volume in group["template"]["spec"]["volumes"] if volume["name"] == "runs"} == {claim}  # fmt: skip


def test_compose_publishes_on_loopback_and_names_the_locked_prefect() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200"]
    locked = re.search(r"^prefect==(\S+)", (ROOT / "requirements/cpu.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked is not None
    assert compose["services"]["prefect"]["image"] == f"prefecthq/prefect:{locked[1]}-python3.12"


def test_the_dockerfile_copies_what_is_there_and_installs_from_the_locks() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    instructions = [line for line in lines if line and not line.startswith("#")]
    assert instructions[0].startswith("FROM python:3.12-slim")
    for line in instructions:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[2:-1])
    (setup,) = [line for line in instructions if "make setup" in line]
    assert "--require-hashes" in setup
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PYTHON ?=" in makefile
    assert "KIND ?=" in makefile
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ".git" not in ignored, "manifests name the commit"


STUBS = {
    "scontrol": "echo node-a; echo node-b",
    "srun": 'echo "srun $*" >> "$RECORD"; if [[ $* == *"addr show"* ]]; then echo "2: eth0 inet 10.1.2.3/24"; '
    "elif [[ $* == *--block* ]]; then exec sleep 60; fi",
    ".venv/bin/ray": "exit 0",
    ".venv/bin/python": 'case "$*" in *token_hex*) echo 0123;; *ray.nodes*) until grep -q -- --exclude "$RECORD"; '
    'do :; done; echo "$NODES";; '
    '*) printf "%s\\n" "$@" > "$WORDS"; exit "$CODE";; esac',
}


def allocation(folder: Path, *, nodes: int, joined: int, code: int) -> dict[str, str]:
    """Stubs of Slurm's and the project's commands in `folder`; returns the environment of a job."""
    for name, body in STUBS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "IREPO": str(folder),
        "RECORD": str(folder / "srun.log"),
        "WORDS": str(folder / "words"),
        "NODES": str(joined),
        "CODE": str(code),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "41007",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64",
    }


@pytest.mark.parametrize("code", [0, 2])
def test_the_slurm_script_starts_ray_and_a_run_that_the_configuration_takes(tmp_path: Path, code: int) -> None:
    script = DEPLOY / "slurm/iterate.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    environment = allocation(tmp_path, nodes=2, joined=2, code=code)
    words = ["run=demo", "name=mine", "policy.warmup=null"]
    done = subprocess.run(["bash", script, *words], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    record = (tmp_path / "srun.log").read_text()
    assert re.search(
        r"-w node-a \S+/ray start --block --head --node-ip-address=10\.1\.2\.3 --port=\d+ .*--num-gpus=8", record
    )
    assert re.search(r"--exclude=node-a \S+/ray start --block --address=10\.1\.2\.3:\d+", record)
    module, name, *given = (tmp_path / "words").read_text().splitlines()
    assert (module, name) == ("-m", "flows.iterate")
    config = compose_config(given)
    assert config.cluster.kind == "ray"
    assert re.fullmatch(r"10\.1\.2\.3:\d+", config.cluster.address)
    assert config.engine.workers == 16
    launcher = (config.training.launcher or "").split()
    assert launcher[0] == "srun"
    assert launcher[-1].startswith("--rdzv-endpoint=10.1.2.3:")
    assert {"--nnodes=2", "--nproc-per-node=8"} <= set(launcher)
    assert config.training.in_child()
    if shutil.which("pgrep"):
        left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
        assert left == "", "Ray's steps end with the job"


def test_the_slurm_script_ends_when_a_node_does_not_join(tmp_path: Path) -> None:
    environment = allocation(tmp_path, nodes=2, joined=1, code=0)
    (tmp_path / "sleep").write_text("#!/usr/bin/env bash\nif (($1 == 60)); then exec /bin/sleep 60; fi\n")
    (tmp_path / "sleep").chmod(0o755)
    done = subprocess.run(
        ["bash", DEPLOY / "slurm/iterate.sbatch"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "only 1 of 2 nodes joined Ray at 10.1.2.3:" in done.stderr
    assert not (tmp_path / "words").exists()
