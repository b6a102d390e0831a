"""What a finished study knows about itself, as sentences for checklists, cards and data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from neurorad import __version__
from neurorad.endpoints import endpoints

ABSENT = "not in this study"


@dataclass(frozen=True)
class Study:
    """What the documents are made of.

    Attributes:
        config: of the study. audit: leakage_audit.json. plan: the analysis plan's stamp.
        tables: results/tables/NAME.csv by name; those a study does not have may be absent.
        scans, patients, excluded: rows of all cohorts, each with the column `cohort`.
        cards: card.json by encoder. weights: sha256 of the weights by encoder.
        sources: licence, terms and citations by release (resources/data_sources.yaml).
    """

    config: Mapping[str, Any]
    audit: Mapping[str, Any]
    plan: str
    tables: Mapping[str, pd.DataFrame]
    scans: pd.DataFrame
    patients: pd.DataFrame
    excluded: pd.DataFrame
    cards: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, str]
    sources: Mapping[str, Mapping[str, Any]]


def facts(study: Study) -> dict[str, str]:
    """Every `{name}` that a checklist may use -> its sentence, without a full stop unless it is one or more sentences."""
    config, evaluation = study.config, study.config["evaluation"]
    trained, imaging = config["pretraining"], config["imaging"]
    tests = [name for name, block in config["cohorts"].items() if "test" in block["role"]]
    known = endpoints(config.get("labels", {}))
    total = _total(study.tables.get("supplementary_1_cohorts"))
    probe = study.tables.get("probe", pd.DataFrame(columns=["note", "ci_low", "metric"]))
    cut = [f"{e.label} {e.cutoff:g}" for e in known.values() if e.cutoff is not None]
    sequences = "t1n, t1c, t2w and t2f"
    missing = imaging.get("missing_sequence", "exclude")
    some_card = next(iter(study.cards.values()), None)
    maps = config.get("explanation", {}).get("endpoints", [])
    return {
        "version": __version__,
        "plan": study.plan[0].upper() + study.plan[1:],
        "primary": primary(config),
        "deviations": _deviations(study.tables.get("deviations")),
        "population": "people with a brain tumour",
        "cohorts": "; ".join(
            f"{name} ({block['release']}, {' and '.join(block['role'])})" for name, block in config["cohorts"].items()
        ),
        "test_sites": ", ".join(tests),
        "endpoints": ", ".join([*(e.label for e in known.values()), "overall survival"]),
        "cutoffs": ", ".join(cut) or "none",
        "sequences": sequences,
        "missing_sequence": "the scan is left out"
        if missing == "exclude"
        else "its channel is zero, and its card says so",
        "imaging": (
            f"{sequences} identified, registered rigidly, brain mask by {imaging['brain_mask']['method']}, "
            f"{'N4 bias correction' if imaging['n4'] else 'no bias correction'}, z-scored inside the brain, "
            f"{' x '.join(map(str, imaging['shape']))} voxels of {imaging['spacing']} mm"
        ),
        "preprocessing": f"{imaging['spacing']} mm, z-scored inside the brain",
        "folds": str(evaluation["folds"]),
        "repeats": str(evaluation["repeats"]),
        "bootstrap": str(evaluation["bootstrap"]),
        "seed": str(evaluation["seed"]),
        "methods": ", ".join(trained["methods"]),
        "objectives": ", ".join(trained["objectives"]),
        "seeds": ", ".join(map(str, trained["seeds"])),
        "preset": trained["preset"],
        "groups": trained.get("groups", "cohort"),
        "encoders": ", ".join(sorted(study.cards)) or ABSENT,
        "encoder_count": str(len(study.cards)),
        "ensemble": "All methods' embeddings joined" if evaluation.get("ensemble") else "None",
        "architecture": _architecture(some_card),
        "training": _training(some_card),
        "explanation": (
            f"Grad-CAM, occlusion, deletion and randomised layers for {', '.join(maps)}: ../tables/map_checks.csv"
            if maps
            else ABSENT
        ),
        "leakage": str(study.audit["stamp"]) or "No overlap was left by the audit (../cohorts/leakage_audit.json).",
        "found": _count(total, "scans"),
        "left_out": _count(total, "left_out_scans"),
        "pretraining_scans": _count(total, "pretraining_scans"),
        "pretraining_patients": _count(total, "pretraining_patients"),
        "evaluated_patients": _count(total, "evaluated_patients"),
        "reasons": reasons(study.excluded),
        "label_counts": label_counts(study.tables.get("supplementary_2_labels"), tests),
        "demographics": "; ".join(f"{name}: {demographics(study.patients, name)}" for name in tests),
        "primary_result": primary_result(study.tables.get("comparison"), study.tables.get("probe")),
        "warnings": str(int(probe["note"].fillna("").str.contains("not estimable|warning").sum())),
        "interval_rows": str(int(probe["ci_low"].notna().sum())),
    }


def primary(config: Mapping[str, Any]) -> str:
    """The declared primary analyses in words."""
    declared = config.get("analysis_plan", {}).get("primary", [])
    return "; ".join(", ".join("/".join(map(str, values)) for values in entry.values()) for entry in declared) or (
        "none declared, all is exploratory"
    )


def _deviations(table: pd.DataFrame | None) -> str:
    if table is None:
        return ABSENT
    return f"{len(table)} in ../tables/deviations.csv" if len(table) else "none"


def _total(table: pd.DataFrame | None) -> pd.Series | None:
    return None if table is None else table.set_index("cohort").loc["total"]


def _count(total: pd.Series | None, column: str) -> str:
    return ABSENT if total is None else f"{int(total[column]):,}"


def reasons(excluded: pd.DataFrame) -> str:
    """How many entries of each stage; single reasons name patients and stay in excluded.tsv."""
    if excluded.empty:
        return "none was left out"
    counts = excluded.groupby("stage").size().sort_values(ascending=False)
    return ", ".join(f"{stage} {count}" for stage, count in counts.items())


def label_counts(labels: pd.DataFrame | None, cohorts: list[str]) -> str:
    """Patients with a label and positive ones among them, over the test cohorts."""
    if labels is None:
        return ABSENT
    sums = labels[labels["cohort"].isin(cohorts)].groupby("label", sort=False)[["n", "n_positive"]].sum()
    return ", ".join(f"{name} {int(row.n)} ({int(row.n_positive)} positive)" for name, row in sums.iterrows())


def demographics(patients: pd.DataFrame, cohort: str) -> str:
    """Number, median age and share of women; of fewer than five patients the number alone."""
    mine = patients[patients["cohort"] == cohort]
    if len(mine) < 5:
        return f"{len(mine)} patients"
    age, sex = pd.to_numeric(mine["age"], errors="coerce").dropna(), mine["sex"].dropna()
    told = [f"{len(mine)} patients"]
    if len(age) >= 5:
        told.append(f"median age {age.median():.0f} (quartiles {age.quantile(0.25):.0f} to {age.quantile(0.75):.0f})")
    if len(sex) >= 5:
        told.append(f"{(sex == 'F').mean():.0%} female")
    return ", ".join(told)


def primary_result(comparison: pd.DataFrame | None, probe: pd.DataFrame | None) -> str:
    """The rows that the plan calls primary, one sentence each; how many could not be estimated."""
    held = [table for table in (comparison, probe) if table is not None and "analysis" in table]
    rows = [row for table in held for row in table[table["analysis"] == "primary"].itertuples()]
    if not rows:
        return "No number was planned as primary."
    told = [
        f"{row.encoder}, {row.endpoint}, {row.site}: {row.metric} {row.value:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"
        for row in rows
        if pd.notna(row.value)
    ]
    left = len(rows) - len(told)
    return (
        f"Primary: {'; '.join(told) or 'nothing could be estimated'}"
        + (f"; {left} not estimable" if left and told else "")
        + "."
    )


def _architecture(card: Mapping[str, Any] | None) -> str:
    if card is None:
        return ABSENT
    shape = card["architecture"]
    return f"3D {shape['name']}, {card['parameters']:,} parameters, {card['dimension']} dimensions, {len(card['sequences'])} channels"


def _training(card: Mapping[str, Any] | None) -> str:
    if card is None:
        return ABSENT
    values = card["preset"]["values"]["training"]
    return f"{values['steps']} steps of {values['batch_size']} scans, learning rate {values['learning_rate']:g}"
