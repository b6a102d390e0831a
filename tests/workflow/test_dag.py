"""Dry runs: which jobs a config asks for, and which configs are refused before any job."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neurorad.cohorts.releases import RELEASES
from neurorad.endpoints import endpoints
from neurorad.reporting.registry import FIGURES

ROOT = Path(__file__).resolve().parents[2]


def dry_run(folder: Path, config: dict, *targets: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *targets,
        "-s",
        str(ROOT / "Snakefile"),
        "-n",
        "--directory",
        str(folder),
    ]
    (folder / "resources").mkdir(exist_ok=True)
    (folder / "resources" / "phantom_crosswalk.csv").write_text("cohort_a,patient_a,cohort_b,patient_b\n")
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    command += ["--configfile", str(folder / "study.yaml")]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def jobs(run: subprocess.CompletedProcess) -> dict[str, int]:
    assert run.returncode == 0, run.stdout + run.stderr
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)}


@pytest.fixture
def shipped() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def test_the_shipped_study(tmp_path, shipped):
    counts = jobs(dry_run(tmp_path, shipped))
    assert counts["phantom"] == counts["inventory"] == 10
    assert counts["volumes"] == 13
    assert counts["embed"] == 3 * (8 + 2 + 2)
    assert counts["pretrain"] == counts["explain"] == 8
    assert counts["probe"] == counts["survival"] == counts["invariance"] == 8 + 2 + 2
    assert sum(count for name, count in counts.items() if name.startswith("figure_")) == len(FIGURES)
    once = ("audit", "folds", "compare", "clean", "reliability", "report", "crate")
    assert {counts[name] for name in once} == {1}


def test_an_ensemble_is_one_more_encoder_an_objective(tmp_path, shipped):
    shipped["evaluation"] |= {"ensemble": True, "probes": ["linear", "robust"]}
    counts = jobs(dry_run(tmp_path, shipped))
    assert counts["ensemble"] == 3 * 2
    assert counts["embed"] == 3 * (8 + 2 + 2)
    assert counts["probe"] == counts["survival"] == counts["invariance"] == 8 + 2 + 2 + 2
    assert counts["pretrain"] == 8


def test_without_a_second_objective_there_is_nothing_to_compare(tmp_path, shipped):
    shipped["pretraining"]["objectives"] = ["base"]
    counts = jobs(dry_run(tmp_path, shipped))
    assert counts["pretrain"] == 4
    assert "compare" not in counts
    assert "figure_fig3d_differences" not in counts


def test_excess_waits_for_the_base_run_of_its_method_and_seed(tmp_path, shipped):
    shipped["pretraining"].update(methods=["byol"], objectives=["excess"], seeds=[3])
    run = dry_run(tmp_path, shipped, "results/encoders/byol-excess-s3/card.json")
    assert jobs(run)["pretrain"] == 2
    assert (
        "--reference results/encoders/byol-base-s3"
        in dry_run(tmp_path, shipped, "results/encoders/byol-excess-s3/card.json", "-p").stdout
    )


def test_rivals_are_encoders_like_any_other(tmp_path, shipped):
    for name in ("clip.bin", "mine.onnx", "mine.py"):
        (tmp_path / name).touch()
    shipped["rivals"] = {
        "random": [4, 5],
        "radiomics": True,
        "clinical_full": True,
        "combat": True,
        "biomedclip": {"weights": "clip.bin", "sha256": "0" * 64},
        "adapters": {
            "mine": {"onnx": "mine.onnx", "sha256": "0" * 64},
            "medblip": {"python": "mine.py", "function": "embed"},
        },
        "finetune": {"from": ["scratch", "dino-dro-s0"], "endpoints": ["idh1", "mgmt"]},
    }
    run = dry_run(tmp_path, shipped, "-p")
    counts = jobs(run)
    frozen = 2 + 5  # random; radiomics, clinical-full, biomedclip, mine, medblip
    assert counts["embed"] == 3 * (8 + frozen + 1)
    assert counts["finetune"] == 2 * 2
    assert counts["survival"] == counts["invariance"] == 8 + frozen + 1
    assert counts["probe"] == 8 + frozen + 1 + 4 + 2  # and ComBat of four base encoders, and two tuned
    said = run.stdout + run.stderr
    assert "--encoder byol-base-combat-s0" in said and "--embeddings results/embeddings/byol-base-s0/" in said
    assert "--scores results/finetuned/scratch-tuned-s0/idh1.parquet" in said
    assert "--encoder results/encoders/dino-dro-s0 --recipe" in said
    stamped = re.findall(r"neurorad survival --encoder (\S+) [^\n]*--pretrained-elsewhere", said)
    assert sorted(stamped) == ["biomedclip", "medblip", "mine"]


def test_another_config_replaces_the_shipped_one(tmp_path, shipped):
    del shipped["phantom"]
    shipped["cohorts"] = {"mine": {**shipped["cohorts"]["ucsf-pdgm"], "images": "nowhere"}}
    del shipped["cohorts"]["mine"]["labels"]
    shipped["pretraining"]["freeze"] = "elsewhere"
    (tmp_path / "elsewhere").mkdir()
    for method in ("byol", "dino", "mae", "moco"):
        for objective in ("base", "dro"):
            folder = tmp_path / "elsewhere" / f"{method}-{objective}-s0"
            folder.mkdir()
            (folder / "card.json").touch()
            (folder / "encoder.safetensors").touch()
    counts = jobs(dry_run(tmp_path, shipped, "embeddings"))
    assert counts["inventory"] == 1
    assert "pretrain" not in counts
    assert "phantom" not in counts


def test_a_pattern_with_braces_is_no_wildcard(tmp_path, shipped):
    shipped["cohorts"]["mine"] = {
        "release": "generic",
        "role": ["test"],
        "images": "nowhere",
        "pattern": "{patient}/*_{sequence}.nii.gz",
        "sequences": {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"},
        "state": "skull",
    }
    assert jobs(dry_run(tmp_path, shipped))["inventory"] == 11


def test_shards_multiply_the_volume_jobs_of_that_cohort_only(tmp_path, shipped):
    shipped["cohorts"]["cuimc"]["shards"] = 3
    assert jobs(dry_run(tmp_path, shipped))["volumes"] == 14


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(colour="red"), "colour"),
        (lambda c: c["cohorts"]["cuimc"].update(release="cuimcc"), "cuimcc"),
        (lambda c: c["cohorts"]["cuimc"].update(role=["train"]), "train"),
        (lambda c: c["pretraining"].update(methods=["simclr"]), "simclr"),
        (lambda c: c["imaging"].update(spacing=-1), "-1"),
        (lambda c: c["imaging"].update(brain_mask={"method": "hd-bet"}), "weights"),
        (lambda c: c["cohorts"]["cuimc"].update(release="generic"), "pattern"),
        (lambda c: c["explanation"].update(endpoints=["idh9"]), "idh9"),
        (lambda c: c["rivals"].update(medblip={"weights": "x"}), "medblip"),
        (lambda c: c["rivals"].update(biomedclip={"weights": "x"}), "sha256"),
        (lambda c: c["rivals"].update(brainiac={"weights": "x", "sha256": "0" * 64, "layers": 3}), "layers"),
        (lambda c: c["rivals"].update(adapters={"byol": {"python": "x.py", "function": "f"}}), "byol"),
        (lambda c: c["rivals"].update(adapters={"mine": {"onnx": "x.onnx"}}), "mine"),
        (lambda c: c["rivals"].update(finetune={"from": ["vit-base-s0"], "endpoints": ["idh1"]}), "vit-base-s0"),
    ],
)
def test_a_wrong_config_is_refused_by_name(tmp_path, shipped, change, named):
    change(shipped)
    run = dry_run(tmp_path, shipped)
    assert run.returncode != 0
    assert named in run.stdout + run.stderr


@pytest.mark.parametrize("given", [True, False])
def test_a_config_with_a_key_twice_is_refused(tmp_path, shipped, given):
    """Snakemake would take the last one: a study of one encoder in place of eight."""
    dry_run(tmp_path, shipped)
    twice = "pretraining: {methods: [byol], objectives: [base], seeds: [0], preset: demo}"
    path = tmp_path / ("study.yaml" if given else "config.yaml")
    path.write_text(yaml.safe_dump(shipped) + twice)
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--directory", str(tmp_path)]
    command += ["--configfile", str(path)] if given else []
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode != 0
    assert "found the key 'pretraining' twice" in run.stdout + run.stderr


def test_a_verdict_that_fails_is_an_input_of_the_index_and_one_that_passes_of_the_page_alone(tmp_path, shipped):
    shipped["cohorts"]["cuimc"]["verdicts"] = str(tmp_path / "verdicts.tsv")
    said = {}
    for verdict in ("pass", "fail"):
        (tmp_path / "verdicts.tsv").write_text(
            f"scan\tverdict\tcomment\twho\twhen\ncuimc-1\t{verdict}\t\tAB\t2026-01-02\n"
        )
        run = dry_run(tmp_path, shipped, "results/volumes/cuimc/qc.html")
        jobs(run)
        said[verdict] = {
            rule: "verdicts.tsv" in body
            for rule, body in re.findall(r"^rule (\w+):\n((?: .*\n)+)", run.stdout, re.MULTILINE)
        }
    assert (said["pass"]["volumes_index"], said["pass"]["qc"]) == (False, True)
    assert (said["fail"]["volumes_index"], said["fail"]["qc"]) == (True, True)


def test_a_wrong_or_missing_verdict_file_is_refused_before_any_job(tmp_path, shipped):
    shipped["cohorts"]["cuimc"]["verdicts"] = str(tmp_path / "verdicts.tsv")
    run = dry_run(tmp_path, shipped)
    assert run.returncode != 0
    assert "verdicts.tsv" in run.stdout + run.stderr
    (tmp_path / "verdicts.tsv").write_text("scan\tverdict\tcomment\twho\twhen\ncuimc-1\tgood\t\tAB\t2026-01-02\n")
    run = dry_run(tmp_path, shipped)
    assert run.returncode != 0
    assert "row 2: verdict 'good' is none of pass, fail or nothing" in run.stdout + run.stderr


def rule_files() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))}


def test_every_rule_has_a_log_a_benchmark_and_an_environment_and_calls_the_cli():
    for name, text in rule_files().items():
        for rule in re.split(r"^ *(?:rule|checkpoint) *\w*:$", text, flags=re.MULTILINE)[1:]:
            for directive in ("log:", "benchmark:", "conda:", "shell:"):
                assert directive in rule, f"{name}: a rule lacks {directive}\n{rule[:200]}"
            assert '"neurorad ' in rule or name == "reporting.smk"


def test_no_rule_retries_runs_python_or_takes_a_script():
    """Retries belong in the profile (inside Slurm they multiply); `run:` starts Snakemake again; scripts trigger on touch."""
    for name, text in rule_files().items():
        assert not re.search(r"^ *(retries|run|script):", text, re.MULTILINE), name


def test_the_list_of_unexplained_files_goes_into_no_job():
    """It holds the paths of a hospital as they are; whatever is no input of a job is in no report and no crate."""
    text = "".join(rule_files().values())
    assert text.count("unknown_files.txt") == text.count("output.unknown") == 1
    assert re.search(r"checkpoint inventory:.*?output\.unknown", text, re.DOTALL)
    assert "cohorts/*" not in text and "glob_wildcards" not in text


def test_the_gpu_rules_ask_for_a_gpu():
    text = "".join(rule_files().values())
    for rule in ("pretrain", "embed", "finetune", "explain"):
        body = re.search(rf"rule {rule}:(.*?)shell:", text, re.DOTALL)[1]
        assert "gpu=1" in body


def test_micro_batches_come_from_the_config_where_a_method_can_be_divided_and_are_no_parameter(tmp_path, shipped):
    """BYOL has batch norm in its heads with 21 samples."""
    shipped["pretraining"]["accumulate"] = 3
    planned = dry_run(tmp_path, shipped, "-p")
    commands = [line for line in planned.stdout.splitlines() if "neurorad pretrain" in line]
    assert len(commands) == 8
    for command in commands:
        assert f"--devices 1 --accumulate {1 if '--method byol' in command else 3} " in command
    body = re.search(r"rule pretrain:.*?params:(.*?)shell:", "".join(rule_files().values()), re.DOTALL)[1]
    assert "micro_batches" not in body


def test_the_slurm_profile_plans_the_same_jobs(tmp_path, shipped):
    local = jobs(dry_run(tmp_path, shipped))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(shipped))
    command = [sys.executable, "-m", "snakemake", "-n", "--profile", "slurm", "--directory", str(tmp_path)]
    run = subprocess.run(
        [*command, "--configfile", str(tmp_path / "study.yaml")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert jobs(run) == local


def test_the_schema_knows_every_release_and_endpoint():
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())["properties"]
    block = schema["cohorts"]["additionalProperties"]["properties"]
    assert set(block["release"]["enum"]) == {*RELEASES, "generic"}
    assert schema["explanation"]["properties"]["endpoints"]["items"]["enum"] == [*endpoints(), "os"]
    tuned = schema["rivals"]["properties"]["finetune"]["properties"]
    assert tuned["endpoints"]["items"]["enum"] == list(endpoints())
