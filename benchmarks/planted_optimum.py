"""How much of the phantom's planted truth a finished study recovered: `python benchmarks/planted_optimum.py RESULTS`.

Beside the AUC (c-index) that the planted latent (hazard) itself has on the released labels of truth.json, the best and the
median encoder, untrained weights, and age and sex alone; within site. The planted optimum is what no encoder can beat but
by luck. No stage of the study reads truth.json.
"""

import argparse
from pathlib import Path

import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.files import read_json, read_table


def recovered(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Columns best, median (of trained encoders), random, clinical; one row an endpoint and site."""
    rows = rows[(rows["metric"] == metric) & (rows["protocol"] == "within_site")]
    trained = rows["encoder"].map(lambda name: encoder_parts(name)[0] not in ("random", "clinical", "ensemble"))
    by = ["endpoint", "site"]
    found = rows[trained].groupby(by)["value"].agg(best="max", median="median")
    for name in ("random-s0", "clinical"):
        found[name] = rows[rows["encoder"] == name].set_index(by)["value"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    results = parser.parse_args().results
    planted = read_json(results / "phantom" / "truth.json")
    tables = {}
    for stage in ("probe", "survival"):
        files = [
            path for path in sorted((results / "evaluation" / stage).glob("*.parquet")) if path.stem.count(".") == 0
        ]
        tables[stage] = pd.concat([read_table(path) for path in files], ignore_index=True)
    print("| endpoint | site | n+/n | planted optimum | best encoder | median encoder | untrained | age and sex |")
    print("|---|---|---|---|---|---|---|---|")
    made = recovered(tables["probe"], "auc")
    for (endpoint, site), row in made.iterrows():
        truth = planted["endpoints"][site].get(endpoint)
        if truth and row.notna().any():
            write(endpoint, site, f"{truth['n_positive']}/{truth['n']}", truth["auc"], row)
    made = recovered(tables["survival"][tables["survival"]["endpoint"] == "os"], "c_index")
    for (_, site), row in made.iterrows():
        truth = planted["survival"][site]
        if row.notna().any():
            write("survival (c-index)", site, f"{truth['n_events']}/{truth['n']}", truth["c_index"], row)


def write(endpoint: str, site: str, counts: str, optimum: float, row: pd.Series) -> None:
    told = [f"{row[name]:.2f}" if pd.notna(row[name]) else "" for name in ("best", "median", "random-s0", "clinical")]
    print(f"| {endpoint} | {site} | {counts} | {optimum:.2f} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
