"""A small study through a real Slurm: jobs cancelled, out of memory and out of time come back and change no byte."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.small_study import STUDY, phantom_cohort

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {
    **STUDY,
    "phantom": {"seed": 0, "scale": 0.1, "spacing": 4.0},
    "cohorts": {
        "brats-gli-pre": phantom_cohort("brats-gli-pre", "pretrain"),
        "ucsf-pdgm": phantom_cohort("ucsf-pdgm", "test", labels="UCSF-PDGM-metadata_v5.csv"),
    },
    "imaging": {**STUDY["imaging"], "n4": False},
    "pretraining": {**STUDY["pretraining"], "preset": "small"},
}
"""Two cohorts, two encoders."""


@pytest.fixture(scope="module")
def cluster(shared):
    """A Slurm of two nodes that lasts for this module; its settings are in the environment of the tests."""
    if not (shared.parent / "slurm" / "start-slurm.sh").is_file():
        pytest.skip("needs the shared scripts that start a Slurm")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    sizes = {"SLURM_TEST_CPUS": "64", "SLURM_TEST_MEM_MB": "512000"}
    try:
        started = subprocess.run(
            [shared.parent / "slurm" / "start-slurm.sh", folder],
            env={**os.environ, **sizes},
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([shared.parent / "slurm" / "stop-slurm.sh", folder], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def checkout(folder: Path) -> Path:
    """What a user has: the repository with their own config, and a preset whose training can be interrupted."""
    folder.mkdir(exist_ok=True)
    for name in ("Snakefile", "workflow", "resources", "envs", "slurm", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "config.yaml").write_text(yaml.safe_dump(SMALL))
    presets = yaml.safe_load((ROOT / "resources" / "presets.yaml").read_text())
    presets["small"] = {**presets["demo"], "encoder": {**presets["demo"]["encoder"], "width": 8}}
    presets["small"]["training"] = {**presets["demo"]["training"], "steps": 60, "batch_size": 8}
    (folder / "resources" / "presets.yaml").write_text(yaml.safe_dump(presets))
    # This machine has two cores, whatever its Slurm believes, and nobody waits 40 s for a job of 4 s. `explain` needs more
    # than 500 MB, and a minute is the shortest time limit.
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    profile |= {"jobs": 3, "slurm-init-seconds-before-status-checks": 5, "latency-wait": 10}
    del profile["set-threads"]
    profile["set-resources"]["explain"]["mem_mb"] = "500 * attempt ** 3"
    profile["set-resources"]["pretrain"]["runtime"] = "attempt ** 3"
    (folder / "slurm" / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def jobs_of(environment: dict[str, str]) -> list[dict[str, str]]:
    """Every job that the cluster has seen, as `scontrol` tells it."""
    told = subprocess.run(
        ["scontrol", "-o", "-d", "show", "job"], env=environment, capture_output=True, text=True, check=True
    )
    return [dict(re.findall(r"(\w+(?:/\w+)?)=(\S*)", line)) for line in told.stdout.splitlines() if "JobId=" in line]


def jobs_named(environment: dict[str, str], comment: str) -> list[dict[str, str]]:
    """The attempts of one job of the study, the first one first."""
    found = [job for job in jobs_of(environment) if comment in job.get("Comment", "")]
    return sorted(found, key=lambda job: int(job["JobId"]))


@pytest.fixture(scope="module")
def study(cluster, tmp_path_factory) -> Path:
    """The study as it ends after one training was cancelled and the other stopped until its time was up."""
    folder = checkout(tmp_path_factory.mktemp("cluster") / "neurorad")
    logs = {name: folder / "results" / "logs" / "pretrain" / f"byol-{name}-s0.log" for name in ("base", "dro")}
    signals = {"base": [], "dro": ["--signal=STOP"]}
    with open(folder / "snakemake.log", "w") as log:
        run = subprocess.Popen(
            [Path(sys.executable).with_name("snakemake"), "--profile", "slurm"],
            cwd=folder,
            # The package of this checkout, with its presets, and not the one that runs the tests.
            env=cluster | {"PYTHONPATH": str(folder / "workflow")},
            stdout=log,
            stderr=log,
        )
    try:
        while run.poll() is None:
            time.sleep(0.5)
            for name in [name for name in signals if logs[name].is_file() and "step " in logs[name].read_text()]:
                (job,) = jobs_named(cluster, f"pretrain_wildcards_byol_{name}")
                subprocess.run(["scancel", *signals.pop(name), job["JobId"]], env=cluster, check=True)
    finally:
        run.terminate()
        run.wait()
    assert run.returncode == 0, (folder / "snakemake.log").read_text()[-6000:]
    assert not signals, "the trainings ended before they could be interrupted"
    return folder


def digests(folder: Path) -> dict[str, str]:
    names = ("encoder.safetensors", "card.json", "history.csv", "groups.csv")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def trained_without_a_break(study: Path, out: Path, objective: str) -> dict[str, str]:
    arguments = ["pretrain", "--method", "byol", "--objective", objective, "--seed", "0", "--preset", "small"]
    subprocess.run(
        [sys.executable, "-m", "neurorad", *arguments, "--out", out]
        + ["--manifest", "results/cohorts/pretraining_manifest.tsv", "--threads", "1"],
        cwd=study,
        env={**os.environ, "PYTHONPATH": str(study / "workflow")},
        capture_output=True,
        check=True,
    )
    return digests(out)


def test_the_study_completes_as_typed(study, cluster):
    assert (study / "results" / "report.html").stat().st_size > 100_000
    assert (study / "results" / "provenance" / "ro-crate-metadata.json").is_file()
    left = subprocess.run(["squeue", "-h"], env=cluster, capture_output=True, text=True, check=True).stdout
    assert left == ""


def test_a_cancelled_training_goes_on_from_its_checkpoint_to_the_same_encoder(study, cluster, tmp_path):
    first, second = jobs_named(cluster, "pretrain_wildcards_byol_base")
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    told = (study / ".snakemake" / "slurm_logs" / "rule_pretrain" / "byol_base_0" / f"{first['JobId']}.log").read_text()
    (step,) = re.findall(r"stopped by SIGTERM at step (\d+)", told)
    assert f"resumed at step {step}" in (study / "results" / "logs" / "pretrain" / "byol-base-s0.log").read_text()
    encoder = study / "results" / "encoders" / "byol-base-s0"
    assert digests(encoder) == trained_without_a_break(study, tmp_path / "straight", "base")
    assert not list(encoder.glob("checkpoint*"))


def test_a_training_out_of_time_comes_back_with_more_and_ends_in_the_same_encoder(study, cluster, tmp_path):
    first, second = jobs_named(cluster, "pretrain_wildcards_byol_dro")
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:01:00", "00:08:00")
    assert digests(study / "results" / "encoders" / "byol-dro-s0") == trained_without_a_break(
        study, tmp_path / "straight", "dro"
    )


def test_a_job_out_of_memory_comes_back_with_more(study, cluster):
    for encoder in ("byol-base-s0", "byol-dro-s0"):
        first, second = jobs_named(cluster, f"explain_wildcards_{encoder}")
        assert (first["JobState"], second["JobState"]) in {("FAILED", "COMPLETED"), ("OUT_OF_MEMORY", "COMPLETED")}
        assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("500M", "4000M")
    assert "exceeded memory limit" in "".join(
        path.read_text() for path in (study / ".snakemake" / "slurm_logs" / "rule_explain").rglob("*.log")
    )


def test_gpu_jobs_held_a_gpu_and_no_other_job_did(study, cluster):
    ended = [job for job in jobs_of(cluster) if job["JobState"] == "COMPLETED"]
    held = {job["Comment"].split("_")[1] for job in ended if "gres/gpu=1" in job["TRES"].split(",")}
    assert held == {"pretrain", "embed", "explain"}
    assert {job["Partition"] for job in ended if "gres/gpu" in job["TRES"]} == {"gpu"}
    assert {job["Partition"] for job in ended if "gres/gpu" not in job["TRES"]} == {"cpu"}
    told = subprocess.run(
        ["sacct", "-X", "-n", "-P", "--format=Partition,AllocTRES,State"],
        env=cluster,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    gpu = [line for line in told.splitlines() if line.startswith("gpu|") and line.endswith("|COMPLETED")]
    assert len(gpu) == len([job for job in ended if job["Partition"] == "gpu"])
    assert all("gres/gpu=1" in line for line in gpu), told


def test_a_failed_job_names_its_logs(study):
    told = (study / "snakemake.log").read_text()
    assert "log: results/logs/pretrain/byol-base-s0.log" in told
    assert re.search(r"slurm_logs/rule_pretrain/byol_base_0/\d+\.log", told)
