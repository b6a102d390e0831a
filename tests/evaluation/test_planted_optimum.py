"""The phantom's planted optimum is recovered: latents in, mixed and drowned in noise features, AUC and c-index of truth.json out."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from neurorad import RESOURCES
from neurorad.endpoints import binary, endpoints
from neurorad.evaluation import metrics
from neurorad.evaluation.features import Embeddings
from neurorad.evaluation.folds import check_labels, fold_table, glioblastoma_survival
from neurorad.evaluation.probe import probe
from neurorad.evaluation.survival import survival
from neurorad.phantom.plan import LATENTS, plan, read_recipe
from neurorad.phantom.render import Study
from neurorad.phantom.truth import truth

SITES = ("cuimc", "ucsf-pdgm", "upenn-gbm")


@pytest.fixture(scope="module")
def phantom():
    """The shipped recipe with six times its patients, on paper: plan, truth.json, patients.tsv, folds, an ideal encoder."""
    recipe = read_recipe(RESOURCES / "phantom.yaml")
    made = plan(recipe, 0, 6)
    released = made.released[made.released["cohort"].isin(SITES)]
    people = made.patients.loc[released.index]
    told = ["idh1", "mgmt", "1p19q", "egfr", "atrx", "tp53", "cdkn2ab", "tert", "ki67", "grade"]
    patients = released[["cohort", "patient"]].assign(**{name: released[name].astype(float) for name in told})
    patients = patients.assign(**people[["os_days", "event", "diagnosis"]].to_dict("series"))
    patients = check_labels(patients.reset_index(drop=True), endpoints())
    who = patients[["cohort", "patient"]].assign(scan=patients["cohort"] + patients["patient"], session="1")
    latents = people[[f"latent_{name}" for name in LATENTS]].to_numpy(float)
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(len(LATENTS), len(LATENTS))))[0]
    x = np.c_[latents @ rotation, 0.3 * random.normal(size=(len(who), 6))]
    table = pd.concat([who, pd.DataFrame(x, columns=[f"e{i}" for i in range(x.shape[1])])], axis=1)
    folds = fold_table(who, patients, endpoints(), 5, 1, 0)
    folds = folds[(folds["protocol"] == "within_site") | (folds["endpoint"] == "site")]
    return truth(Study(recipe, 0, 2.0, made)), people, patients, folds, Embeddings([table], "random-s0")


def test_every_marker_is_recovered_to_its_planted_auc_within_its_error(phantom):
    planted, people, patients, folds, embeddings = phantom
    latents = people[[f"latent_{name}" for name in LATENTS]].to_numpy(float)
    rows = pd.DataFrame(probe(embeddings, folds, endpoints(), 0, 40)[0])
    found = rows[(rows["metric"] == "auc") & rows["value"].notna()]
    short = []
    for row in found.itertuples():
        optimum = planted["endpoints"][row.site][row.endpoint]
        assert (row.n, row.n_positive) == (optimum["n"], optimum["n_positive"])
        error = max((row.ci_high - row.ci_low) / 4, 0.01)
        # Learned from the patients at hand, a probe falls short of the planted latent itself.
        assert row.value > optimum["auc"] - 0.16 - 2 * error, row
        # Markers go together (a 1p/19q loss comes with an IDH mutation), so that all latents may tell more than the marker's
        # own; what they tell patients on whom the weights were fitted, nobody exceeds but by luck.
        label = binary(patients[row.endpoint], endpoints()[row.endpoint])
        mine = (label.notna() & (patients["cohort"] == row.site)).to_numpy()
        most = (
            LogisticRegression(C=100.0, max_iter=2000).fit(latents[mine], label[mine]).decision_function(latents[mine])
        )
        most = roc_auc_score(label[mine], most)
        assert row.value < most + error, row
        short.append(most - row.value)
    assert len(short) >= 14
    assert 0 < np.mean(short) < 0.08


def test_survival_is_recovered_to_the_c_index_of_the_planted_hazard(phantom):
    _, people, patients, folds, embeddings = phantom
    rows = pd.DataFrame(survival(embeddings, folds, patients, endpoints(), 0, 40)[0])
    found = rows[(rows["metric"] == "c_index") & (rows["protocol"] == "within_site")].set_index("site")
    hazard = people["log_hazard"].to_numpy(float)
    for site in SITES:
        mine = (glioblastoma_survival(patients) & (patients["cohort"] == site)).to_numpy()
        days, event = (patients.loc[mine, name].to_numpy() for name in ("os_days", "event"))
        optimum = float(metrics.harrell_c(metrics.comparable(days, event), hazard[mine]))
        row = found.loc[site]
        assert row["n"] == mine.sum()
        error = (row["ci_high"] - row["ci_low"]) / 4
        assert optimum - 3 * error < row["value"] < optimum + 2 * error, (site, optimum, row["value"])
