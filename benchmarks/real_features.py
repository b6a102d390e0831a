"""The evaluation on real rows: `python benchmarks/real_features.py TABLES [--repeats 5] [--bootstrap 2000]`.

TABLES is a folder with the published feature and clinical tables of UCSF-PDGM, UPENN-GBM and MU-Glioma-Post (names in
`SETS` and `CLINICAL`). Radiomic features stand in for embeddings; labels are read by the project's own dictionaries, and
folds, probes and intervals are those of the workflow. Beside each AUC stands that of age alone on the same patients.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from neurorad.cohorts import labels
from neurorad.cohorts.label_tables import read_labels
from neurorad.endpoints import endpoints
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import analysis_set, check_labels, fold_table
from neurorad.evaluation.probe import probe

CLINICAL = {
    "ucsf-pdgm": "UCSF-PDGM-metadata_v5.csv",
    "upenn-gbm": "UPENN-GBM_clinical_info_v2.1.csv",
    "mu-glioma-post": "MU-Glioma-Post_ClinicalData-July2025.xlsx",
}


@dataclass(frozen=True)
class FeatureSet:
    """A published feature table of one cohort: which columns are features, and how a row names its patient."""

    cohort: str
    file: str
    id: str
    title: str
    features: str


SETS = (
    FeatureSet("ucsf-pdgm", "UCSF-PDGM_radiomic_features_T1gad_bias.csv", "ID", "UCSF T1c whole tumour", r"original_"),
    FeatureSet(
        "ucsf-pdgm", "UCSF-PDGM_features_from_gtmask_NUR.csv", "patient_id", "UCSF four sequences", r"(?!label|patient)"
    ),
    FeatureSet(
        "upenn-gbm",
        "UPENN-GBM_Radiomic_Features_CaPTk_segm_FLAIR_NC.csv",
        "SubjectID",
        "UPENN FLAIR core",
        r"FLAIR_NC_",
    ),
    FeatureSet("upenn-gbm", "UPENN-GBM_XY_mgmt_radiomics.csv", "ID", "UPENN all sequences", r"Radiomic_Features_"),
    FeatureSet("mu-glioma-post", "MU-Glioma-Post_radiomics512_traincv.xlsx", "subject_id", "MU core, 512", r"core__"),
)
ENCODER = "radiomics"


def read(path: Path) -> pd.DataFrame:
    return pd.read_excel(path) if path.suffix == ".xlsx" else pd.read_csv(path)


def patient_of(cohort: str, name: str) -> str:
    """The id of `patients.tsv`: UCSF's tables write three digits or four, and folder names."""
    if cohort == "ucsf-pdgm":
        number = re.match(r"UCSF-PDGM-(\d+)", name)[1]
        return f"UCSF-PDGM-{int(number):04d}"
    return re.match(r"(UPENN-GBM-\d{5}|PatientID_\d{4})", name)[1]


def read_features(folder: Path, chosen: FeatureSet) -> tuple[pd.DataFrame, str]:
    """Columns cohort, patient, scan, session and the features; the first time point of each patient. What was left out."""
    table = read(folder / chosen.file)
    kept = [c for c in table if re.match(chosen.features, c) and pd.api.types.is_numeric_dtype(table[c])]
    gaps = [c for c in kept if table[c].isna().any()]
    kept = [c for c in kept if c not in gaps]
    who = pd.DataFrame({"cohort": chosen.cohort, "patient": [patient_of(chosen.cohort, n) for n in table[chosen.id]]})
    who["session"] = table["timepoint"].astype(str) if "timepoint" in table else "first"
    who["scan"] = who["patient"] + "_" + who["session"]
    everything = pd.concat([who, table[kept]], axis=1)
    first = everything.sort_values(["patient", "session"]).drop_duplicates("patient", ignore_index=True)
    return first, f"{len(first)} patients, {len(kept)} features ({len(gaps)} with gaps left out)"


def read_patients(folder: Path) -> pd.DataFrame:
    """`patients.tsv` of the three cohorts, through the label dictionaries."""
    parts = []
    for cohort, file in CLINICAL.items():
        exams, problems, _ = labels.harmonise(*read_labels(folder / file, cohort), cohort)
        if problems:
            raise SystemExit(f"{file}: {problems[0]}")
        parts.append(labels.patients_of(exams))
    return check_labels(pd.concat(parts, ignore_index=True), endpoints())


def as_embeddings(who: pd.DataFrame, values: np.ndarray, encoder: str) -> Embeddings:
    numbers = pd.DataFrame(values, columns=[f"e{i}" for i in range(values.shape[1])])
    table = pd.concat([who.reset_index(drop=True), numbers], axis=1)
    return Embeddings([table[np.isfinite(values).all(axis=1)]], encoder)


def study(scans: pd.DataFrame, patients: pd.DataFrame, repeats: int) -> tuple[pd.DataFrame, Embeddings, Embeddings]:
    """Folds of all endpoints, the features, and age alone."""
    who = scans[["cohort", "patient", "scan", "session"]]
    mine = patients[patients["cohort"].isin(who["cohort"])]
    folds = fold_table(analysis_set(who.assign(status="ok")), mine, endpoints(), 5, repeats)
    features = as_embeddings(who, scans.drop(columns=who.columns).to_numpy(float), ENCODER)
    age = who.merge(mine, on=["cohort", "patient"], how="left")["age"].to_numpy(float)[:, None]
    return folds, features, as_embeddings(who, age, "clinical")


def interval(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return row["note"] or "not estimable"
    limits = f" ({row['ci_low']:.2f}-{row['ci_high']:.2f})" if np.isfinite(row["ci_low"]) else ""
    return f"{row['value']:.2f}{limits}"


def probe_table(name: str, scans: pd.DataFrame, patients: pd.DataFrame, args: argparse.Namespace) -> list[list[str]]:
    """One line an endpoint and protocol: AUC with DeLong CI, balanced accuracy, calibration slope, age, added value."""
    folds, features, age = study(scans, patients, args.repeats)
    made = pd.DataFrame(probe(features, folds, endpoints(), 0, args.bootstrap, age)[0])
    lines = []
    for where, part in made.groupby(["endpoint", "protocol", "site"], sort=False):
        endpoint, protocol, site = where
        if protocol == "combined" and scans["cohort"].nunique() == 1:
            continue
        rows = part.drop_duplicates("metric").set_index("metric")
        first = [name, endpoint, "within" if protocol == "within_site" else protocol.replace("_", " "), site]
        first.append(f"{rows.loc['auc', 'n_positive']}/{rows.loc['auc', 'n']}")
        if np.isnan(rows.loc["auc", "value"]):
            lines.append([*first, rows.loc["auc", "note"], *[""] * 5])
            continue
        shown = ("auc", "balanced_accuracy", "calibration_slope", "auc_clinical", "auc_added")
        p = f"{rows.loc['auc_permutation', 'p']:.3f}"
        lines.append([*first, *(interval(rows.loc[m]) if m in rows.index else "" for m in shown), p])
    return lines


def shared_features(folder: Path) -> pd.DataFrame:
    """UCSF and MU rows by the features whose names both tables share: shape, and T1c texture.

    UCSF measured the whole tumour and MU the core, so only names agree; what transfers must survive that.
    """
    ucsf, _ = read_features(folder, SETS[0])
    mu, _ = read_features(folder, SETS[4])
    plain = {c: c.split("__")[-1] for c in mu if c.startswith("core__t1ce__original_") or "__original_shape_" in c}
    mu = mu.rename(columns=plain)
    both = [c for c in plain.values() if c in ucsf]
    return pd.concat([part[["cohort", "patient", "scan", "session", *both]] for part in (ucsf, mu)], ignore_index=True)


def markers(folder: Path, args: argparse.Namespace) -> None:
    """Markers and grade, within each site and across the two sites that share feature names."""
    patients = read_patients(folder)
    header = ["features", "endpoint", "protocol", "site", "n+/n", "AUC (95 % CI)", "balanced accuracy"]
    header += ["calibration slope", "age alone", "added to age", "permutation p"]
    lines = []
    for chosen in SETS:
        scans, said = read_features(folder, chosen)
        print(f"{chosen.title}: {said}")
        lines += probe_table(chosen.title, scans, patients, args)
    scans = shared_features(folder)
    print(f"UCSF + MU: {len(scans)} patients, {scans.shape[1] - 4} features of the same name")
    lines += probe_table("UCSF + MU shared", scans, patients, args)
    print_table(header, [line for line in lines if args.all or not line[5].startswith("not estimable: 0 ")])


def print_table(header: list[str], lines: list[list[str]]) -> None:
    print("\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |")


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {"markers": markers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bootstrap", type=int, default=2000)
    parser.add_argument("--all", action="store_true", help="print rows without a single positive too")
    args = parser.parse_args()
    with threadpool_limits(1):
        for part in args.parts:
            PARTS[part](args.tables, args)


if __name__ == "__main__":
    main()
