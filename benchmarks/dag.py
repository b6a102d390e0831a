"""Time and memory of Snakemake's dry run against the number of scans: 1,000 to 8,000, and 100 more after that.

    python benchmarks/dag.py [FOLDER]

A study of four cohorts of empty files, one shard for 50 scans, four encoders. It is finished first by a stand-in for the
command line, so that the dry run meets every file and every record; then 100 scans are added and planned.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.workflow.test_incremental import ROOT, cohort, config, finish, settings_of

ROLES = {"north": "pretrain", "south": "pretrain", "east": "test", "west": "test"}


def study_of(folder: Path, scans: int) -> dict:
    """The settings of a study with `scans` scans, whose files lie in `folder`."""
    settings = config(folder)
    shards = max(1, scans // len(ROLES) // 50)
    settings["cohorts"] = {
        name: cohort(folder, name, role, scans // len(ROLES), shards) for name, role in ROLES.items()
    }
    for name in ROLES:
        for scan in (folder / "data" / name).iterdir():
            for sequence in ("t1", "t1ce", "t2", "flair"):
                (scan / f"{sequence}.nii.gz").touch()
    return settings


def dry_run(folder: Path) -> tuple[float, float, float, str]:
    """Seconds on the clock, seconds of CPU, peak MB and output of one dry run."""
    began = time.monotonic()
    command = [sys.executable, "-m", "snakemake", "-n", "-s", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    with tempfile.TemporaryFile("w+") as told:
        run = subprocess.Popen(
            [*command, "--configfile", folder / "study.yaml"],
            stdout=told,
            stderr=told,
            env={**os.environ, "PYTHONPATH": str(ROOT / "workflow")},
        )
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        told.seek(0)
        text = told.read()
    if run.returncode:
        raise RuntimeError(text[-3000:])
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text


def add_scans(folder: Path, name: str, number: int) -> Counter:
    """Add `number` scans to a cohort and finish the study; returns what ran."""
    for scan in range(number):
        (folder / "data" / name / f"{name}-9{scan:04d}").mkdir()
        (folder / "data" / name / f"{name}-9{scan:04d}" / "t1.nii.gz").touch()
    return finish(folder, settings_of(folder))


def main(folder: Path) -> None:
    print("| scans | files | jobs of the study | dry run, s | of CPU, s | peak, MB |\n|---|---|---|---|---|---|")
    for scans in (1000, 2000, 4000, 8000):
        study = folder / str(scans)
        study.mkdir(parents=True)
        jobs = finish(study, study_of(study, scans))
        seconds, cpu, peak, told = dry_run(study)
        if "Nothing to be done" not in told:
            raise RuntimeError("the study was not finished")
        print(
            f"| {scans:,} | {4 * scans:,} | {sum(jobs.values())} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True
        )
    ran = add_scans(folder / "8000", "east", 100)
    print(f"\n100 scans added to `east`: {dict(sorted(ran.items()))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
