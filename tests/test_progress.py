"""What a run tells: counts by stage, time left, failures with their logs; and the plugin in a real Snakemake run."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neurorad.progress import Progress, duration, last_words, stage_of
from neurorad.reporting.registry import FIGURES

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("rule", "stage"),
    [
        *(("inventory", "cohorts"), ("volumes_index", "imaging"), ("pretrain", "pretraining"), ("probe", "evaluation")),
        *(
            ("phantom_truth", "phantom"),
            ("figure_fig1_flow", "reporting"),
            ("crate", "provenance"),
            ("config", "other"),
        ),
    ],
)
def test_a_rule_belongs_to_the_stage_whose_verb_it_calls(rule, stage):
    assert stage_of(rule) == stage


def test_every_figure_belongs_to_reporting():
    assert {stage_of(f"figure_{name}") for name in FIGURES} == {"reporting"}


def test_jobs_are_counted_without_targets_and_the_time_left_follows_what_was_measured():
    run = Progress(began=0.0)
    run.plan({"volumes": 4, "qc": 2, "all": 1, "total": 7})
    assert (run.left, run.remaining(5.0)) == (6, None)
    run.start(1, "volumes", {"cohort": "a", "shard": "0"}, 0.0)
    run.start(2, "volumes", {"cohort": "a", "shard": "1"}, 0.0)
    assert run.end(1, 10.0) == ("volumes", "volumes a 0", 10.0)
    assert run.end(2, 10.0)[2] == 10.0
    # 4 jobs of 10 s each on two places: 20 s.
    assert run.remaining(10.0) == pytest.approx(20.0)
    run.start(3, "volumes", {"cohort": "b", "shard": "0"}, 10.0)
    assert run.outlook(14.0) == f"2 of 6 jobs, about {duration(run.remaining(14.0))} left"
    assert run.by_stage() == [("imaging", 2, 6, ["volumes b 0"])]
    run.start(9, "all", {}, 14.0)
    assert run.end(9, 15.0) is None


def test_jobs_that_a_checkpoint_adds_never_make_more_done_than_expected():
    run = Progress(began=0.0)
    run.plan({"embed": 1})
    for job in range(3):
        run.start(job, "embed", {}, 0.0)
        run.end(job, 1.0)
    assert run.left == 0 and run.outlook(1.0) == "3 of 3 jobs"


@pytest.mark.parametrize(("seconds", "said"), [(41.4, "41 s"), (540, "9 min"), (7500, "2 h 5 min")])
def test_durations_are_said_shortly(seconds, said):
    assert duration(seconds) == said


def test_the_last_words_of_a_log(tmp_path):
    (tmp_path / "log").write_text("one\n\ntwo\nneurorad probe: x.csv: no such file\n")
    assert last_words(tmp_path / "log", 2) == ["two", "neurorad probe: x.csv: no such file"]
    assert last_words(tmp_path / "none") == []


SNAKEFILE = """
rule all:
    input: "a.txt", "b.txt"
rule probe:
    output: "a.txt"
    log: "a.log"
    shell: "echo noise >&2; touch {output}"
rule survival:
    output: "b.txt"
    log: "b.log"
    shell: "echo 'neurorad survival: t.csv: row 3 has no time' > {log}; exit 2"
"""


def command(folder: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    (folder / "Snakefile").write_text(SNAKEFILE)
    called = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", "--logger", "neurorad", *arguments]
    return called, {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "TERM": "xterm", "COLUMNS": "120"}


def test_without_a_terminal_each_job_is_a_line_and_a_failure_names_its_log(tmp_path):
    called, environment = command(tmp_path)
    run = subprocess.run(called, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    said = run.stderr
    assert re.search(r"^\d\d:\d\d:\d\d  evaluation  probe done in \d+ s · 1 of 2 jobs", said, re.MULTILINE), said
    assert re.search(r"FAILED survival\n\S+ +log: b.log\n\S+ +\| neurorad survival: t.csv: row 3 has no time", said), (
        said
    )
    assert "1 jobs failed; their logs:\n  survival: b.log" in said
    assert "rule probe:" not in said and "Traceback" not in said


def test_a_dry_run_is_told_as_snakemake_tells_it(tmp_path):
    called, environment = command(tmp_path, "-n")
    run = subprocess.run(called, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "rule probe:" in run.stdout + run.stderr and "This was a dry-run" in run.stdout + run.stderr


def test_in_a_terminal_a_table_is_drawn_and_the_terminal_given_back(tmp_path):
    called, environment = command(tmp_path)
    ours, theirs = pty.openpty()
    run = subprocess.Popen(called, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:
            break
        if not more:
            break
        said += more
    assert run.wait(timeout=60) == 1
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode("utf-8", "replace"))
    assert re.search(r"evaluation .* 1 of 2", text), text[-2000:]
    assert "FAILED survival" in text and "log: b.log" in text
    assert "1 jobs failed; their logs:" in text.split("FAILED survival")[1]
    # The cursor that the table hides is shown again.
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")
