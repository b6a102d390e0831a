"""Survival on real rows: `python benchmarks/real_survival.py TABLES [--repeats 3] [--bootstrap 2000]`.

TABLES as for `real_features.py`, whose readers this shares. Overall survival in IDH-wildtype glioblastoma of UCSF-PDGM and
UPENN-GBM, radiomic features standing in for embeddings, within each site, and progression-free survival where the table has
it (MU-Glioma-Post); UPENN strictly (NOS/NEC is unknown IDH) and leniently (NOS/NEC is wildtype). Beside each row age alone on
the same patients. MU-Glioma-Post records no censoring time for deaths, so that its overall survival cannot be estimated
without bias; the script prints who is left.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from real_features import CLINICAL, SETS, print_table, read_features, study
from threadpoolctl import threadpool_limits

from neurorad.cohorts import labels
from neurorad.cohorts.label_tables import read_labels
from neurorad.endpoints import TIMES, endpoints
from neurorad.evaluation.folds import check_labels
from neurorad.evaluation.survival import survival

SHOWN = ("c_index", "uno_c", "auc_12m", "ibs_gain", "calibration_slope", "calibration_in_the_large_12m", "hr_per_sd")
CHOICES = {"strict": {}, "lenient": {"idh_not_specified": "wildtype"}}


def read_patients(folder: Path, choice: dict[str, str]) -> pd.DataFrame:
    """`patients.tsv` of the three cohorts under one choice for IDH NOS/NEC."""
    parts = []
    for cohort, file in CLINICAL.items():
        exams, _, _ = labels.harmonise(*read_labels(folder / file, cohort), cohort, labels.decisions(choice))
        parts.append(labels.patients_of(exams))
    return check_labels(pd.concat(parts, ignore_index=True), endpoints())


def shown(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return row["note"]
    return f"{row['value']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=2000)
    args = parser.parse_args()
    lines, counts = [], []
    for name, choice in CHOICES.items():
        patients = read_patients(args.tables, choice)
        for chosen in SETS:
            if name == "lenient" and chosen.cohort != "upenn-gbm":
                continue
            scans, _ = read_features(args.tables, chosen)
            folds, features, age = study(scans, patients, args.repeats)
            title = f"{chosen.title} ({name})" if chosen.cohort == "upenn-gbm" else chosen.title
            for of, embeddings in (("features", features), ("age alone", age)):
                made = pd.DataFrame(survival(embeddings, folds, patients, endpoints(), 0, args.bootstrap)[0])
                inside = made[made["protocol"] == "inclusion"]
                for endpoint in TIMES:
                    called = f"{title}, {endpoint}"
                    counted = inside[inside["endpoint"] == endpoint].set_index("metric")
                    if of == "features" and len(counted):
                        counts.append([called, str(counted["n"].iloc[0]), *(str(int(v)) for v in counted["value"])])
                        header = ["features", "with features", *counted.index]
                    rows = made[(made["protocol"] == "within_site") & (made["endpoint"] == endpoint)]
                    rows = rows[rows["metric"].isin([*SHOWN, "elastic_net_share"])].set_index("metric")
                    if len(rows):
                        n = f"{int(rows['n_events'].iloc[0])}/{int(rows['n'].iloc[0])}"
                        net = f"{rows['value'].get('elastic_net_share', np.nan):.2f}"
                        lines.append([called, of, n, *(shown(rows.loc[m]) for m in SHOWN), net])
    print_table(header, counts)
    print_table(["features", "model", "events/n", *SHOWN, "elastic nets"], lines)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
