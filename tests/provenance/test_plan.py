"""A dry run in words: causes apart from what follows, what only a checkpoint decides, and the cost of earlier runs."""

import pytest

from neurorad.provenance.plan import duration, in_words, read_plan, seconds_of

TOLD = """Building DAG of jobs...
Job stats:
all 1

[Wed Nov 25 16:22:35 2026]
checkpoint inventory:
    output: results/cohorts/east/scans.tsv
    reason: Params have changed since last execution: before: 'a' now: 'b'
    wildcards: cohort=east
DAG of jobs will be updated after completion.

rule volumes:
    reason: Input files updated by another job: results/cohorts/east/scans.tsv
    wildcards: cohort=east, shard=0

rule volumes:
    reason: Missing output files: results/volumes/east/shards/1.tsv
    wildcards: cohort=east, shard=1

rule pretrain:
    reason: Input files updated by another job: results/cohorts/pretraining_manifest.tsv
    wildcards: method=byol, objective=base, seed=0

localrule figure_fig1_flow:
    reason: Input files updated by another job: results/volumes/east/volumes.tsv

rule all:
    reason: Input files updated by another job: results/report.html
"""


def test_jobs_are_counted_with_their_causes():
    plan = read_plan(TOLD)
    assert {rule: (planned.jobs, planned.behind) for rule, planned in plan.items()} == {
        "inventory": (1, 0),
        "volumes": (2, 1),
        "pretrain": (1, 1),
        "figure_fig1_flow": (1, 1),
    }
    assert plan["volumes"].example == "cohort=east, shard=1"


def test_words_say_cause_consequence_doubt_and_cost():
    text = in_words(read_plan(TOLD), {"pretrain": 7200.0, "inventory": 3.0})
    assert "5 jobs would run at most" in text
    assert (
        "inventory: 1 of 1 jobs (cohort=east): its settings, its code or the files of its cohort changed; about 3 s"
        in text
    )
    assert "volumes: 1 of 2 jobs (cohort=east, shard=1): not made yet" in text
    assert "pretrain: up to 1 jobs, only if the audit changes" in text
    assert "about 2 h 0 min" in text
    assert "figure_fig1_flow: 1 jobs" in text
    assert "Never measured here: figure_fig1_flow, volumes." in text


def test_nothing_to_do_is_said():
    assert in_words(read_plan("Building DAG of jobs...\nNothing to be done.\n"), {}).startswith("Nothing would run")


def test_seconds_are_means_of_the_benchmark_files(tmp_path):
    head = "s\th:m:s\tmax_rss\n"
    for name, value in (
        ("probe/a.tsv", "2.0"),
        ("probe/b.tsv", "4.0"),
        ("figures/fig1_flow.tsv", "1"),
        ("audit.tsv", "NA"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{head}{value}\t0:00:02\t1\n")
    assert seconds_of(tmp_path) == {"probe": 3.0, "figure_fig1_flow": 1.0}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59, "59 s"), (125, "2 min"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
