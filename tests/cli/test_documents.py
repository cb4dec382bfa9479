"""What the documents show works as it stands there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliResult, CliRunner

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"d{number % 3}/file-{number:02d}" for number in range(30)]

Call = Callable[..., CliResult]


@pytest.fixture
def slurm_script(run_cli: CliRunner, tmp_path: Path) -> Path:
    """Return the batch script as a file."""
    path = tmp_path / "s3pool.sbatch"
    path.write_bytes(run_cli("print", "slurm").stdout)
    return path


@pytest.fixture
def job(run_cli: CliRunner) -> dict[str, Any]:
    """Return the Kubernetes Job."""
    return dict(yaml.safe_load(run_cli("print", "kubernetes-job").stdout))


@pytest.fixture
def source(fake: FakeS3, tmp_path: Path) -> Path:
    """Give a tree to copy, and a bucket ``backup``."""
    for name in NAMES:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(name.encode())
    fake.store.add("backup", "data/too-much", b"")
    return tmp_path / "source"


# -- more than one machine -----------------------------------------------------------------


def test_slurm_script_is_a_script_that_slurm_reads(slurm_script: Path) -> None:
    """Slurm takes its directives from the comments before the first command."""
    lines = slurm_script.read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))

    checked = subprocess.run(["bash", "-n", slurm_script], capture_output=True, check=False)

    assert (0, b"") == (checked.returncode, checked.stderr)
    assert lines[0].startswith("#!/")
    assert "#SBATCH --array=0-7" in lines[:first_command]
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_tasks_of_the_slurm_array_do_all_the_work_once(
    slurm_script: Path, source: Path, fake: FakeS3, run_cli: CliRunner, tmp_path: Path
) -> None:
    """The script as it stands, in each of its eight tasks."""
    program = tmp_path / "bin" / "s3pool"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m s3pool "$@"\n')
    program.chmod(0o755)
    array = {"SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}

    plan = run_cli("shards", "s3/backup/data", "--into", "8", "--local", source)
    (program.parent / "plan").write_bytes(plan.stdout)

    shares = []
    for index in range(8):
        environ = run_cli.full_environ({**fake.environment, **array, "SLURM_ARRAY_TASK_ID": str(index)})
        environ["PATH"] = f"{program.parent}:{environ['PATH']}"
        done = subprocess.run(
            ["bash", slurm_script, source, "s3/backup/data"],
            env=environ,
            cwd=program.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert 0 == done.returncode, done.stderr
        shares.append([line for line in done.stdout.splitlines() if " -> " in line])

    assert len(NAMES) == sum(map(len, shares))
    assert {f"data/{name}": name.encode() for name in NAMES} == fake.store.bodies("backup")


def test_kubernetes_job_is_indexed_and_whole(job: dict[str, Any]) -> None:
    """A pod knows its index only in an Indexed Job, and the number of pods only from the manifest."""
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}

    assert ("batch/v1", "Job", "Indexed") == (job["apiVersion"], job["kind"], spec["completionMode"])
    assert str(spec["completions"]) == environ["S3POOL_SHARD_COUNT"]
    assert spec["parallelism"] <= spec["completions"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")
    assert all(isinstance(value, str) for value in environ.values())
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_pods_of_the_kubernetes_job_do_all_the_work_once(
    job: dict[str, Any], source: Path, fake: FakeS3, call: Call
) -> None:
    """The command as it stands, in each of the pods."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    words = [str(source) if word == mount["mountPath"] else word for word in container["command"][1:]]
    count = {entry["name"]: entry["value"] for entry in container["env"]}["S3POOL_SHARD_COUNT"]

    plan = call("shards", "s3/backup/data", "--into", count, "--local", str(source))
    fake.store.add("backup", container["command"][container["command"].index("--plan") + 1].split("/")[-1], plan.stdout)

    shares = []
    for index in range(job["spec"]["completions"]):
        result = call(*words, "--json", env={"JOB_COMPLETION_INDEX": str(index), "S3POOL_SHARD_COUNT": count})
        assert 0 == result.code
        shares.append([record for record in result.records if record["type"] == "copy"])

    assert len(NAMES) == sum(map(len, shares))
    stored = fake.store.bodies("backup")
    assert {f"data/{name}": name.encode() for name in NAMES} == {key: stored[key] for key in stored if key != "plan"}
