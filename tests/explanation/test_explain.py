"""`neurorad explain` from files to files, on a small untrained encoder."""

import numpy as np
import pandas as pd
import pytest
import torch

from neurorad import volumes
from neurorad.encoder import load_encoder
from neurorad.explanation import together
from neurorad.explanation.gradcam import gradcam, look
from neurorad.files import write_table
from tests.explanation.small_study import (
    FEATURES,
    SHAPE,
    change,
    explain,
    read,
)


def test_maps_and_agreement(study):
    explain(study)
    maps = read(study / "out" / "idh1" / "maps.npz")
    assert list(maps["scan"]) == ["s5", "s4", "s1", "s0"]
    assert maps["maps"].shape == (4, *SHAPE) and maps["maps"].dtype == np.float16
    assert (maps["maps"] >= 0).all() and (maps["maps"].max(axis=(1, 2, 3)) > 0.99).all()
    assert maps["t1c"].shape == maps["t2f"].shape == maps["tumour"].shape == (4, *SHAPE[:2])
    assert (maps["slice"][1:] == 8).all(), "the first of the slices with most tumour"
    table = pd.read_parquet(study / "out" / "idh1" / "agreement.parquet").set_index("scan")
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
        assert (study / "out" / "idh1" / name).read_bytes() == (study / "again" / "idh1" / name).read_bytes()


def test_checks_stand_beside_the_prior_with_intervals_and_counts(study):
    explain(study)
    scans = pd.read_parquet(study / "out" / "idh1" / "check_scans.parquet")
    assert set(scans["scan"]) == {"s0", "s1", "s2", "s3", "s4"}, "s5 has no mask"
    checks = pd.read_parquet(study / "out" / "idh1" / "checks.parquet").set_index(["protocol", "metric"])
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
    explain(study, twin=(twin, study / "idh1.coefficients.parquet"))
    checks = pd.read_parquet(study / "out" / "idh1" / "checks.parquet").set_index(["protocol", "metric"])
    assert checks.loc[("gradcam", "seed_1"), "value"] == pytest.approx(1), "the same weights: the same map"


def test_counter_evidence_is_kept_beside_the_map(study):
    explain(study)
    maps = read(study / "out" / "idh1" / "maps.npz")
    assert maps["against"].shape == maps["maps"].shape == (4, *SHAPE)
    assert (maps["against"] >= 0).all() and maps["against"].max() <= 1
    for i, level in enumerate(maps["slice"]):
        assert np.array_equal(maps["map_plane"][i], maps["maps"][i, :, :, level])
        assert np.array_equal(maps["against_plane"][i], maps["against"][i, :, :, level])


def test_a_map_is_of_the_models_that_had_not_seen_the_patient(study):
    explain(study)
    maps = read(study / "out" / "idh1" / "maps.npz")
    coefficients = pd.read_parquet(study / "idh1.coefficients.parquet")
    # s4 was held out by fold 0 of repeat 0 and by fold 1 of repeat 1.
    models = coefficients.set_index(["repeat", "fold"])[FEATURES].loc[[(0, 0), (1, 1)]]
    encoder, _ = load_encoder(study / "byol-dro-s0")
    volume = torch.from_numpy(volumes.load(study / "ucsf-pdgm" / "s4.b2nd"))[None]
    weights = torch.from_numpy(models.mean().to_numpy(np.float32))[None]
    cam = gradcam(look(encoder, encoder.network.layer3, weights, volume))[0, 0].numpy()
    assert maps["scan"][1] == "s4"
    assert np.allclose(maps["maps"][1], cam / cam.max(), atol=1e-3)
    everybody = coefficients[coefficients["repeat"] == -1][FEATURES].to_numpy(np.float32)
    other = gradcam(look(encoder, encoder.network.layer3, torch.from_numpy(everybody), volume))[0, 0].numpy()
    assert not np.allclose(maps["maps"][1], other / other.max(), atol=1e-2)


def test_risk_is_explained_as_a_probe_is(study):
    """The models of the risk are those of idh1 with another sign: what raises one lowers the other."""
    negative = pd.read_parquet(study / "idh1.coefficients.parquet").assign(endpoint="os", intercept=-0.3)
    negative[FEATURES] *= -1
    write_table(study / "os.coefficients.parquet", negative)
    score = pd.read_parquet(study / "idh1.predictions.parquet")["score"]
    change(study / "os.predictions.parquet", risk=-score)
    explain(study, endpoint=("idh1", "os"))
    marker, risk = (read(study / "out" / name / "maps.npz") for name in ("idh1", "os"))
    assert list(risk["scan"]) == list(marker["scan"])[::-1]
    assert list(risk["status"]) == ["died at 100 d", "alive at 200 d", "alive at 500 d", "died at 600 d"]
    assert np.allclose(risk["score"], -marker["score"][::-1])
    for i in range(4):
        against, there = marker["against"][3 - i].astype(float), risk["maps"][i].astype(float)
        if against.max() > 0.01:
            assert np.allclose(there, against / against.max(), atol=2e-2)
    checks = pd.read_parquet(study / "out" / "os" / "checks.parquet").set_index(["protocol", "metric"])
    assert ("gradcam", "permuted_labels") in checks.index and set(checks["endpoint"]) == {"os"}


def test_together_or_alone_the_numbers_are_the_same(study):
    explain(study, endpoint=("idh1", "os"))
    explain(study, endpoint="os", out=study / "alone", batch=1)
    one, other = (pd.read_parquet(study / folder / "os" / "check_scans.parquet") for folder in ("out", "alone"))
    pd.testing.assert_frame_equal(one, other, atol=1e-4)
    assert np.allclose(
        read(study / "out" / "os" / "maps.npz")["maps"], read(study / "alone" / "os" / "maps.npz")["maps"], atol=2e-3
    )


def test_every_scan_passes_the_encoder_once_whatever_the_number_of_endpoints(study, monkeypatch):
    passed = []
    whole = together.look_at

    def counted(encoder, *given):
        hook = encoder.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
        for seen in whole(encoder, *given):
            hook.remove()
            yield seen
            hook = encoder.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
        hook.remove()

    monkeypatch.setattr(together, "look_at", counted)
    explain(study, endpoint=("idh1", "os"))
    assert sum(passed) == 6


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_layers_differ(study, layer):
    explain(study)
    explain(study, out=study / "other", layer=layer)
    one, other = (read(study / name / "idh1" / "maps.npz") for name in ("out", "other"))
    assert str(other["layer"]) == layer and not np.array_equal(one["maps"], other["maps"])


def test_an_endpoint_that_could_not_be_probed_is_a_row_that_says_so_and_stops_no_other(study):
    explain(study, endpoint=("tert", "idh1"))
    table = pd.read_parquet(study / "out" / "tert" / "agreement.parquet")
    assert table["note"].tolist() == ["not estimable: no probe of tert could be fitted"]
    assert table[["mass", "prior_mass"]].isna().all(axis=None)
    maps = read(study / "out" / "tert" / "maps.npz")
    assert len(maps["patient"]) == 0 and str(maps["endpoint"]) == "tert"
    (row,) = pd.read_parquet(study / "out" / "tert" / "checks.parquet").to_dict("records")
    assert np.isnan(row["value"]) and row["note"] == "not estimable: no probe of tert could be fitted"
    assert "no probe of tert" in (study / "out" / "tert" / "viewer.html").read_text()
    assert len(read(study / "out" / "idh1" / "maps.npz")["patient"]) == 4


def test_an_empty_mask_is_not_estimable_and_the_others_count(study):
    np.save(study / "ucsf-pdgm" / "s4.tumour.npy", np.zeros(SHAPE, np.uint8))
    explain(study)
    table = pd.read_parquet(study / "out" / "idh1" / "agreement.parquet").set_index("scan")
    assert table.loc["s4", "note"] == "not estimable: no tumour mask" and table.loc["s1", "note"] == ""
    checks = pd.read_parquet(study / "out" / "idh1" / "checks.parquet").set_index(["protocol", "metric"])
    assert checks.loc[("gradcam", "mass_in_tumour"), "n"] == 4


def test_without_any_mask_the_checks_say_so(study):
    for path in (study / "ucsf-pdgm").glob("*.tumour.npy"):
        path.unlink()
    explain(study)
    (row,) = pd.read_parquet(study / "out" / "idh1" / "checks.parquet").to_dict("records")
    assert row["n"] == 0 and row["note"] == "not estimable: no scan with a tumour mask"


def test_a_patient_whose_scan_was_left_out_is_not_shown(study):
    change(study / "embeddings.parquet")
    table = pd.read_table(study / "volumes.tsv")
    table.loc[table["scan"] == "s4", "status"] = "excluded"
    write_table(study / "volumes.tsv", table)
    explain(study)
    assert list(read(study / "out" / "idh1" / "maps.npz")["scan"]) == ["s5", "s3", "s1", "s0"]
