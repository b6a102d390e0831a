"""Faults on the way: whatever is killed, full, read-only, damaged or gone, the study ends the same or says what is wrong."""

import math
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from neurorad.cli import main
from neurorad.provenance.trace import record_of
from tests.workflow.small_study import RESULTS, STUDY, command, digests, finish, kill, new_study, start, unlock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("KILLS", "4"))
"""Drawn moments: four in CI; `KILLS=30 pytest -m slow -k kills` is what docs/reliability.md speaks of."""
AFTER_VOLUMES = ("embeddings", "evaluation", "explanation", "figures", "tables", "provenance", "report.html")


def copied(study: Path, folder: Path, *without: str) -> Path:
    """The finished study elsewhere, times and records too, without some of its results."""
    shutil.copytree(study, folder, symlinks=True, dirs_exist_ok=True)
    for name in without:
        path = folder / "results" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    return folder


def told_by(run: subprocess.CompletedProcess) -> str:
    return run.stdout + run.stderr


def attempt(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, "--cores", "2", "--rerun-incomplete", "--keep-going", *arguments),
        capture_output=True,
        text=True,
        check=False,
    )


def at_work(run: subprocess.Popen) -> set[str]:
    """The verbs that jobs of a run are at."""
    verbs = set()
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            line = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if line[1:3] == ["-m", "neurorad"]:
            verbs.add(line[3])
    return verbs


def jobs_done(folder: Path) -> int:
    return len(list((folder / "results" / "benchmarks").rglob("*.tsv")))


HALF_DONE: dict[str, Callable[[Path], bool]] = {
    "volumes": lambda results: any(results.glob("volumes/ucsf-pdgm/*.b2nd")),
    "pretrain": lambda results: any("step " in log.read_text() for log in results.glob("logs/pretrain/*.log")),
    "probe": lambda results: any(results.glob("evaluation/probe/*.parquet")),
}
"""Verbs that are killed for certain, and whether one at work has done a part of its own."""


@pytest.mark.timeout(1800 + 60 * KILLS)
def test_kills_change_no_byte(study, tmp_path):
    """In the middle of preprocessing, pretraining and evaluation, and at moments drawn over the jobs of the whole study and
    within a job's first seconds."""
    folder = new_study(tmp_path / "killed", STUDY)
    results = folder / "results"
    drawn = random.Random(0)
    counts = sorted(drawn.sample(range(jobs_done(study) - 5), KILLS))
    stages = dict(HALF_DONE)
    hit: list[str] = []
    kills = 0
    while counts or stages:
        log = folder / f"run{kills}.log"
        run, delay, due, stage = start(folder, log), drawn.uniform(0, 3), math.inf, None
        while stage is None and time.monotonic() < due:
            time.sleep(0.1)
            assert run.poll() is None, log.read_text()[-4000:]
            verbs = at_work(run)
            stage = next((verb for verb in stages if verb in verbs and stages[verb](results)), None)
            if counts and verbs and jobs_done(folder) >= counts[0]:
                due = min(due, time.monotonic() + delay)
        kill(run)
        unlock(folder)
        if stage:
            del stages[stage]
            assert not (results / "report.html").exists()
        else:
            del counts[0]
        hit += sorted(verbs) or ["between jobs"]
        kills += 1
    finish(folder)
    print(f"{kills} kills, at: {', '.join(f'{verb} {hit.count(verb)}' for verb in sorted(set(hit)))}")
    assert digests(folder, *RESULTS) == digests(study, *RESULTS)
    assert not list(results.rglob(".writing-*"))
    assert "Nothing to be done" in finish(folder)
    assert len(set(hit)) > 3 and set(HALF_DONE) <= set(hit), hit


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, which a test may fill or make read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def test_a_full_disk_is_named_and_more_space_ends_in_the_same_study(study, small_disk):
    folder = copied(study, small_disk, *AFTER_VOLUMES)
    used = shutil.disk_usage(small_disk).used
    remount(small_disk, f"size={used + 400_000}")
    run = attempt(folder)
    assert run.returncode != 0
    assert "No space left on device" in told_by(run)
    assert not list((folder / "results").rglob("report.html"))
    remount(small_disk, "size=4g")
    unlock(folder)
    finish(folder)
    assert digests(folder, *RESULTS) == digests(study, *RESULTS)
    assert not list((folder / "results").rglob(".writing-*"))


def test_results_that_cannot_be_written_are_named_and_keep_what_is_there(study, small_disk, tmp_path):
    folder = copied(study, tmp_path / "study", "tables")
    kept = digests(folder, "evaluation/**/*.parquet")
    shutil.move(folder / "results", small_disk / "results")
    (folder / "results").symlink_to(small_disk / "results")
    remount(small_disk, "ro")
    run = attempt(folder)
    assert run.returncode != 0
    # The job says the first, Snakemake the second where it was to write over a result.
    assert re.search("Read-only file system|Write-protected", told_by(run)), told_by(run)[-4000:]
    remount(small_disk, "rw")
    assert digests(folder, "evaluation/**/*.parquet") == kept
    unlock(folder)
    finish(folder)
    assert digests(folder, "tables/*") == digests(study, "tables/*")


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(study, tmp_path):
    folder = copied(study, tmp_path / "twice", "figures", "report.html")
    first = start(folder, folder / "first.log")
    while first.poll() is None and not at_work(first):
        time.sleep(0.05)
    second = attempt(folder)
    assert first.poll() is None, "the first run was over before the second was tried"
    assert second.returncode != 0
    assert "lock" in told_by(second).lower()
    assert first.wait() == 0, (folder / "first.log").read_text()[-4000:]
    assert digests(folder, *RESULTS) == digests(study, *RESULTS)


@pytest.mark.parametrize("days", [2])
def test_a_clock_that_jumps_changes_no_number(study, tmp_path, days):
    """Half of what is there was written by a clock that ran `days` off; the rest is made by a right one."""
    folder = copied(study, tmp_path / "jumped", "evaluation", "figures", "tables", "report.html")
    for path in sorted((folder / "results").rglob("*"))[::2]:
        seconds = path.stat().st_mtime + days * 86400
        os.utime(path, (seconds, seconds))
    finish(folder)
    assert digests(folder, *RESULTS) == digests(study, *RESULTS)
    assert "Nothing to be done" in finish(folder)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


VOLUME = "a volume"
READ_BY = [
    (VOLUME, "results/embeddings/byol-dro-s0/ucsf-pdgm.parquet"),
    ("results/encoders/byol-dro-s0/encoder.safetensors", "results/embeddings/byol-dro-s0/ucsf-pdgm.parquet"),
    ("results/encoders/byol-dro-s0/card.json", "results/embeddings/byol-dro-s0/ucsf-pdgm.parquet"),
    ("results/embeddings/byol-dro-s0/ucsf-pdgm.parquet", "results/evaluation/probe/byol-dro-s0.parquet"),
    ("results/evaluation/folds.parquet", "results/evaluation/survival/byol-dro-s0.parquet"),
    ("results/evaluation/probe/byol-dro-s0.predictions.parquet", "results/evaluation/comparison.parquet"),
    ("results/evaluation/probe/byol-dro-s0.coefficients.parquet", "results/explanation/byol-dro-s0/idh1/maps.npz"),
    ("results/cohorts/leakage_audit.json", "results/evaluation/invariance/byol-dro-s0.parquet"),
    ("results/evaluation/probe/byol-dro-s0.parquet", "results/tables/probe.csv"),
]


@pytest.fixture(scope="module")
def copy(study, tmp_path_factory) -> Path:
    return copied(study, tmp_path_factory.mktemp("damaged") / "study")


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize(("path", "reader"), READ_BY, ids=[f"{path} -> {reader}" for path, reader in READ_BY])
def test_a_damaged_file_is_refused_by_the_job_that_reads_it(copy, path, reader, damage):
    """The job's own command, as Snakemake recorded it, over one damaged input."""
    if path == VOLUME:
        path = str(sorted((copy / "results/volumes/ucsf-pdgm").glob("*.b2nd"))[0].relative_to(copy))
    whole, made = (copy / path).read_bytes(), (copy / reader).read_bytes()
    (copy / path).write_bytes(damage(whole))
    try:
        told = subprocess.run(
            record_of(copy, reader)["shellcmd"],
            shell=True,
            executable="/bin/bash",
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        after = (copy / reader).read_bytes()
    finally:
        (copy / path).write_bytes(whole)
        (copy / reader).write_bytes(made)
    assert "Traceback" not in told.stderr, told.stderr[-3000:]
    if told.returncode:
        assert re.search(rf"neurorad [a-z-]+: .*{re.escape(Path(path).name)}", told.stderr), told.stderr[-3000:]
    # A flip that says nothing may only be one that means nothing.
    assert after == made


def test_what_goes_missing_afterwards_is_named_and_a_result_is_made_again(study, tmp_path, capsys):
    folder = copied(study, tmp_path / "missing")
    gone = ["embeddings/byol-base-s0/cuimc.parquet", "tables/probe.csv"]
    for name in gone:
        (folder / "results" / name).unlink()
    crate = folder / "results" / "provenance" / "ro-crate-metadata.json"
    with pytest.raises(SystemExit) as left:
        main(["verify", str(crate)])
    assert left.value.code == 1
    told = capsys.readouterr().out
    assert all(f"missing  ../{name}" in told for name in gone)
    finish(folder)
    assert digests(folder, "tables/*") == digests(study, "tables/*")
