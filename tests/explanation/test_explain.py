"""`neurorad explain` from files to files, on a small untrained encoder."""

import argparse

import numpy as np
import pandas as pd
import pytest

from neurorad import volumes
from neurorad.encoder import Architecture, initialised, save_weights
from neurorad.explanation import commands
from neurorad.files import write_json, write_table
from neurorad.problems import InputError

SHAPE = (24, 32, 24)
CONTRACT = {"spacing": [3.0, 3.0, 3.0]}


@pytest.fixture
def study(tmp_path):
    """Six scans (the last without a mask), an encoder folder, predictions and coefficients."""
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
        rows.append(
            {
                "cohort": "ucsf-pdgm",
                "scan": f"s{i}",
                "patient": f"p{i}",
                "volume": str(path),
                "sha256": digest,
                "status": "ok",
            }
        )
    write_table(tmp_path / "volumes.tsv", pd.DataFrame(rows))
    architecture = Architecture("resnet10", 4, 1, False, "group")
    encoder = initialised(architecture, seed=0)
    folder = tmp_path / "byol-dro-s0"
    folder.mkdir()
    save_weights(folder, encoder)
    write_json(folder / "card.json", {"architecture": vars(architecture), "preprocessing": CONTRACT})
    names = {
        "encoder": "byol-dro-s0",
        "endpoint": "idh1",
        "protocol": "within_site",
        "site": "ucsf-pdgm",
        "cohort": "ucsf-pdgm",
    }
    scores = pd.DataFrame(
        [{**names, "patient": f"p{i}", "scan": f"s{i}", "label": i % 2, "score": 0.1 * i} for i in range(6)]
    )
    write_table(tmp_path / "predictions.parquet", scores)
    weights = dict(zip([f"e{i}" for i in range(32)], rng.normal(size=32), strict=True))
    write_table(
        tmp_path / "coefficients.parquet",
        pd.DataFrame([{"endpoint": "idh1", "site": "all", "intercept": 0.3, **weights}]),
    )
    features = pd.DataFrame(rng.normal(size=(6, 32)), columns=[f"e{i}" for i in range(32)])
    write_table(tmp_path / "embeddings.parquet", pd.DataFrame(rows)[["cohort", "scan", "patient"]].join(features))
    write_json(tmp_path / "audit.json", {"stamp": "STAMPED"})
    return tmp_path


def explain(folder, **changed):
    flags = {
        "encoder": folder / "byol-dro-s0",
        "coefficients": folder / "coefficients.parquet",
        "predictions": folder / "predictions.parquet",
        "volumes": folder / "volumes.tsv",
        "embeddings": folder / "embeddings.parquet",
        "leakage": folder / "audit.json",
        "endpoint": "idh1",
        "out": folder / "out",
        **{"close": 2, "window": 12, "steps": 3},
        **changed,
    }
    parser = argparse.ArgumentParser()
    commands.add_verbs(parser.add_subparsers())
    words = [(f"--{name}", *(value if isinstance(value, tuple) else (value,))) for name, value in flags.items()]
    args = parser.parse_args(["explain", *(str(word) for flag in words for word in flag)])
    args.run(args)


def test_maps_and_agreement(study):
    explain(study)
    with np.load(study / "out" / "maps.npz", allow_pickle=False) as stored:
        maps = dict(stored)
    assert list(maps["scan"]) == ["s5", "s4", "s1", "s0"]
    assert maps["maps"].shape == (4, *SHAPE) and maps["maps"].dtype == np.float16
    assert (maps["maps"] >= 0).all() and (maps["maps"].max(axis=(1, 2, 3)) > 0.99).all()
    assert maps["t1c"].shape == maps["t2f"].shape == maps["tumour"].shape == (4, *SHAPE[:2])
    assert (maps["slice"][1:] == 8).all(), "the first of the slices with most tumour"
    table = pd.read_parquet(study / "out" / "agreement.parquet").set_index("scan")
    assert np.isnan(table.loc["s5", "mass"]) and table.loc["s5", "note"] == "not estimable: no tumour mask"
    known = table.drop("s5")
    assert (
        known[["mass", "hit", "prior_mass", "prior_hit", "tumour_share"]]
        .apply(lambda c: c.between(0, 1))
        .all(axis=None)
    )
    assert known["tumour_share"].to_numpy() == pytest.approx(5 * 6 * 4 / (18 * 24 * 18))


def test_same_bytes_again(study):
    explain(study)
    explain(study, out=study / "again")
    for name in ("maps.npz", "agreement.parquet", "check_scans.parquet", "checks.parquet"):
        assert (study / "out" / name).read_bytes() == (study / "again" / name).read_bytes()


def test_checks_stand_beside_the_prior_with_intervals_and_counts(study):
    explain(study)
    scans = pd.read_parquet(study / "out" / "check_scans.parquet")
    assert set(scans["scan"]) == {"s0", "s1", "s2", "s3", "s4"}, "s5 has no mask"
    checks = pd.read_parquet(study / "out" / "checks.parquet").set_index(["protocol", "metric"])
    assert set(checks["leakage"]) == {"STAMPED"}
    mass = checks.loc[("gradcam", "mass_in_tumour")]
    mine = scans[(scans["map"] == "gradcam") & (scans["metric"] == "mass_in_tumour")]["value"]
    assert mass["value"] == pytest.approx(mine.mean()) and mass["n"] == 5
    assert mass["ci_low"] < mass["value"] < mass["ci_high"]
    prior = checks.loc[("centre_prior", "mass_in_tumour"), "value"]
    assert checks.loc[("gradcam", "mass_in_tumour_minus_prior"), "value"] == pytest.approx(mass["value"] - prior)
    closely = checks.loc[("gradcam", "cascade_stem")]
    assert closely["n"] == 2 and np.isnan(closely["ci_low"]) and "2 patients" in closely["note"]
    expected = {"occlusion", "gradcam", "gradcam++", "centre_prior", "random"}
    assert set(checks.xs("deletion_fall", level="metric").index) == expected
    for name in ("permuted_labels", "simple_probe", "cascade_layer4"):
        assert ("gradcam", name) in checks.index


def test_another_seed_tells_whether_maps_are_repeatable(study):
    twin = study / "byol-dro-s1"
    twin.mkdir()
    for name in ("encoder.safetensors", "card.json"):
        (twin / name).write_bytes((study / "byol-dro-s0" / name).read_bytes())
    explain(study, twin=(twin, study / "coefficients.parquet"))
    checks = pd.read_parquet(study / "out" / "checks.parquet").set_index(["protocol", "metric"])
    assert checks.loc[("gradcam", "seed_1"), "value"] == pytest.approx(1), "the same weights: the same map"


def test_counter_evidence_is_kept_beside_the_map(study):
    explain(study)
    with np.load(study / "out" / "maps.npz", allow_pickle=False) as stored:
        against, maps = stored["against"], stored["maps"]
    assert against.shape == maps.shape and (against >= 0).all() and against.max() <= 1
    assert maps.shape[1:] == SHAPE


def test_layers_differ(study):
    explain(study)
    explain(study, out=study / "deep", layer="layer4")
    maps = [np.load(study / name / "maps.npz")["maps"] for name in ("out", "deep")]
    assert not np.array_equal(*maps)


def test_an_endpoint_that_could_not_be_probed_is_a_row_that_says_so(study):
    explain(study, endpoint="tert")
    table = pd.read_parquet(study / "out" / "agreement.parquet")
    assert table["note"].tolist() == ["not estimable: no probe of tert could be fitted"]
    assert table[["mass", "prior_mass"]].isna().all(axis=None)
    with np.load(study / "out" / "maps.npz", allow_pickle=False) as stored:
        assert len(stored["patient"]) == 0 and str(stored["endpoint"]) == "tert"


def test_an_endpoint_nobody_declared_is_an_error_that_lists_the_known(study):
    with pytest.raises(InputError, match="'idh9'.*known: idh1, mgmt"):
        explain(study, endpoint="idh9")


def test_predictions_of_another_encoder_are_refused(study):
    table = pd.read_parquet(study / "predictions.parquet").assign(encoder="mae-base-s0")
    write_table(study / "predictions.parquet", table)
    with pytest.raises(InputError, match="mae-base-s0, not of byol-dro-s0"):
        explain(study)


def test_mask_on_another_grid_is_refused(study):
    np.save(study / "ucsf-pdgm" / "s4.tumour.npy", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="not on the volume's grid"):
        explain(study)


def test_coefficients_of_another_length_are_refused(study):
    table = pd.read_parquet(study / "coefficients.parquet").drop(columns="e31")
    write_table(study / "coefficients.parquet", table)
    with pytest.raises(InputError, match="31 weights, but the encoder makes 32"):
        explain(study)
