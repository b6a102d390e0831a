"""The files of a study that figures, tables and the report are made from, by what they hold."""

from collections.abc import Mapping
from typing import Any

from neurorad.roster import Roster


def encoders_folder(pretraining: Mapping[str, Any]) -> str:
    """Where the study's encoders lie: its own results, or the folder of frozen ones."""
    return pretraining.get("freeze") or "results/encoders"


def result_files(config: Mapping[str, Any], names: Roster) -> dict[str, list[str]]:
    """Flag of `neurorad figure` and `neurorad table` -> every file that it takes; none where the config asks for none."""
    evaluation = config["evaluation"]
    comparable = len(config["pretraining"]["objectives"]) > 1
    stressed = [*names.encoders, "random-s0"] if "stress" in evaluation else []
    explained = [(encoder, endpoint) for encoder in names.encoders for endpoint in names.explained]

    def of_cohorts(pattern: str) -> list[str]:
        return [f"results/{pattern.format(cohort)}" for cohort in names.cohorts]

    def of_encoders(pattern: str) -> list[str]:
        return [f"{encoders_folder(config['pretraining'])}/{pattern.format(encoder)}" for encoder in names.encoders]

    def evaluated(pattern: str, encoders: list[str]) -> list[str]:
        return [f"results/evaluation/{pattern.format(encoder)}" for encoder in encoders]

    def of_maps(file: str) -> list[str]:
        return [f"results/explanation/{encoder}/{endpoint}/{file}" for encoder, endpoint in explained]

    return {
        "scans": of_cohorts("cohorts/{}/scans.tsv"),
        "patients": of_cohorts("cohorts/{}/patients.tsv"),
        "decisions": of_cohorts("cohorts/{}/decisions.tsv"),
        "volumes": of_cohorts("volumes/{}/volumes.tsv"),
        "excluded": of_cohorts("cohorts/{}/excluded.tsv"),
        "manifest": ["results/cohorts/pretraining_manifest.tsv"],
        "history": of_encoders("{}/history.csv"),
        "groups": of_encoders("{}/groups.csv"),
        "probe": evaluated("probe/{}.parquet", names.probed),
        "rivals": ["results/embeddings/rivals.tsv"],
        "survival": evaluated("survival/{}.parquet", names.evaluated),
        "curves": evaluated("survival/{}.curves.parquet", names.drawn),
        "invariance": evaluated("invariance/{}.parquet", names.evaluated),
        "coordinates": evaluated("invariance/{}.coordinates.parquet", names.encoders),
        "comparison": ["results/evaluation/comparison.parquet"] if comparable else [],
        "clean": ["results/evaluation/clean.parquet"],
        "stress": evaluated("stress/{}.parquet", stressed),
        "reliability": ["results/evaluation/reliability.parquet"],
        "maps": of_maps("maps.npz"),
        "agreement": of_maps("agreement.parquet"),
        "checks": of_maps("checks.parquet"),
    }
