"""Six scans, an encoder and what evaluation wrote of it; and `neurorad explain` on them."""

import argparse

import numpy as np
import pandas as pd

from neurorad import volumes
from neurorad.encoder import Architecture, initialised, save_weights
from neurorad.evaluation.probe import PREDICTION_COLUMNS as PROBED
from neurorad.evaluation.survival import PREDICTION_COLUMNS as FOLLOWED
from neurorad.explanation import commands
from neurorad.files import write_json, write_table

SHAPE = (24, 32, 24)
CONTRACT = {"spacing": [3.0, 3.0, 3.0]}


LAYERS = ["endpoint", "site", "repeat", "fold", "intercept", "lowest", "highest"]
FEATURES = [f"e{i}" for i in range(32)]


def models(random, endpoint):
    """Coefficients of two folds in two repeats and of everybody: the tables of `neurorad probe` and `survival`."""
    rows = [(endpoint, "all", repeat, fold, 0.3, -np.inf, np.inf) for repeat in (0, 1) for fold in (0, 1)]
    rows.append((endpoint, "all", -1, -1, 9.0, -np.inf, np.inf))
    return pd.DataFrame(rows, columns=LAYERS).join(pd.DataFrame(random.normal(0, 0.3, (5, 32)), columns=FEATURES))


def scores_of(coefficients, features):
    """`[6]`: patient i is in fold i % 2 of repeat 0 and in fold i // 3 of repeat 1."""
    found = []
    for i, x in enumerate(features):
        each = [
            coefficients[(coefficients["repeat"] == r) & (coefficients["fold"] == f)]
            for r, f in ((0, i % 2), (1, i // 3))
        ]
        found.append(np.mean([float(x @ one[FEATURES].to_numpy()[0] + one["intercept"].iloc[0]) for one in each]))
    return np.array(found)


def new_study(tmp_path):
    """Six scans (the last without a mask), an encoder folder, and what evaluation writes for idh1 and os.

    Scores of idh1 rise with the number of the patient, risks fall.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        brain = np.zeros(SHAPE, bool)
        brain[3:21, 4:28, 3:21] = True
        tumour = np.zeros(SHAPE, bool)
        tumour[6:11, 8 + i : 14 + i, 8:12] = True
        voxels = (rng.normal(0, 1, (4, *SHAPE)) + 3 * tumour) * brain
        path = tmp_path / "ucsf-pdgm" / f"s{i}.b2nd"
        digest = volumes.save(path, voxels, {"preprocessing": CONTRACT})
        if i < 5:
            np.save(path.with_name(f"s{i}.tumour.npy"), tumour.astype(np.uint8))
        who = {"cohort": "ucsf-pdgm", "scan": f"s{i}", "patient": f"p{i}"}
        rows.append({**who, "volume": str(path), "sha256": digest, "status": "ok"})
    write_table(tmp_path / "volumes.tsv", pd.DataFrame(rows))
    architecture = Architecture("resnet10", 4, 1, False, "group")
    folder = tmp_path / "byol-dro-s0"
    folder.mkdir()
    save_weights(folder, initialised(architecture, seed=0))
    write_json(folder / "card.json", {"architecture": vars(architecture), "preprocessing": CONTRACT})
    identity = pd.DataFrame(rows)[["cohort", "patient", "scan"]]
    features = rng.normal(size=(6, 32))
    drawn = [
        identity.assign(endpoint=endpoint, protocol="combined", site="all", repeat=repeat, fold=fold)
        for endpoint in ("idh1", "os")
        for repeat, fold in ((0, np.arange(6) % 2), (1, np.arange(6) // 3))
    ]
    write_table(tmp_path / "folds.parquet", pd.concat(drawn))
    first = identity.assign(encoder="byol-dro-s0", protocol="combined", site="all")
    tables = {endpoint: models(rng, endpoint) for endpoint in ("idh1", "os")}
    # e0 is set so that the scores are in the order that the tests count on.
    tables["idh1"]["e0"] = tables["os"]["e0"] = 1.0
    features[:, 0] += 10 * np.arange(6)
    tables["os"][FEATURES] *= -1
    for endpoint, column in (("idh1", "score"), ("os", "risk")):
        table = first.assign(
            endpoint=endpoint, label=np.arange(6) % 2, **{column: scores_of(tables[endpoint], features)}
        )
        if endpoint == "os":
            table = table.drop(columns="label").assign(event=[1, 0, 1, 1, 0, 1], days=100.0 * np.arange(1, 7))
        assert set(table) <= {*PROBED, *FOLLOWED}
        write_table(tmp_path / f"{endpoint}.predictions.parquet", table)
        write_table(tmp_path / f"{endpoint}.coefficients.parquet", tables[endpoint])
    write_table(tmp_path / "embeddings.parquet", identity.join(pd.DataFrame(features, columns=FEATURES)))
    write_json(tmp_path / "audit.json", {"stamp": "STAMPED"})
    return tmp_path


def run(words):
    parser = argparse.ArgumentParser()
    commands.add_verbs(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    args.run(args)


def explain(folder, **changed):
    flags = {
        "encoder": folder / "byol-dro-s0",
        "coefficients": (folder / "idh1.coefficients.parquet", folder / "os.coefficients.parquet"),
        "predictions": (folder / "idh1.predictions.parquet", folder / "os.predictions.parquet"),
        "folds": folder / "folds.parquet",
        "volumes": folder / "volumes.tsv",
        "embeddings": folder / "embeddings.parquet",
        "leakage": folder / "audit.json",
        "endpoint": "idh1",
        "out": folder / "out",
        **{"close": 2, "window": 24, "steps": 3},
        **changed,
    }
    run(
        [
            "explain",
            *(
                word
                for name, value in flags.items()
                for word in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
            ),
        ]
    )


def read(path):
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def change(path, **columns):
    write_table(path, pd.read_parquet(path).assign(**columns))
