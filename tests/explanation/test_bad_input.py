"""What does not belong together is refused by name, and nothing is left half-written."""

import numpy as np
import pandas as pd
import pytest

from neurorad import volumes
from neurorad.encoder import Architecture, initialised, save_weights
from neurorad.files import read_json, write_json, write_table
from neurorad.problems import InputError
from tests.explanation.small_study import CONTRACT, change, explain


def test_an_endpoint_nobody_declared_is_an_error_that_lists_the_known(study):
    with pytest.raises(InputError, match="'idh9'.*known: idh1, mgmt.*os"):
        explain(study, endpoint="idh9")


def wrong_encoder(study):
    change(study / "idh1.predictions.parquet", encoder="mae-base-s0")


def short_coefficients(study):
    path = study / "idh1.coefficients.parquet"
    write_table(path, pd.read_parquet(path).drop(columns="e31"))


def coefficients_of_another_probe(study):
    path = study / "idh1.coefficients.parquet"
    change(path, e7=pd.read_parquet(path)["e7"] + 0.5)


def infinite_coefficients(study):
    change(study / "idh1.coefficients.parquet", e7=np.inf)


def folds_of_another_draw(study):
    table = pd.read_parquet(study / "folds.parquet")
    write_table(study / "folds.parquet", table.assign(fold=table["fold"] + 7 * (table["patient"] == "p2")))


def embeddings_of_one_cohort(study):
    write_table(study / "embeddings.parquet", pd.read_parquet(study / "embeddings.parquet").head(4))


def mask_on_another_grid(study):
    np.save(study / "ucsf-pdgm" / "s4.tumour.npy", np.ones((4, 4, 4), np.uint8))


def damaged_volume(study):
    (study / "ucsf-pdgm" / "s4.b2nd").write_bytes(b"half")


def other_preprocessing(study):
    card = study / "ucsf-pdgm" / "s4.json"
    write_json(card, read_json(card) | {"preprocessing": {"spacing": [1.0, 1.0, 1.0]}})


def no_encoder(study):
    (study / "byol-dro-s0" / "card.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_encoder, "mae-base-s0, not of byol-dro-s0"),
        (short_coefficients, "31 weights for idh1, but the encoder makes 32"),
        (coefficients_of_another_probe, "do not give the scores of --predictions for idh1"),
        (infinite_coefficients, "weights of idh1 are not finite"),
        (folds_of_another_draw, "1 patients with a score for idh1 have no fold"),
        (embeddings_of_one_cohort, "2 scans with a score have no embedding"),
        (mask_on_another_grid, r"s4 of ucsf-pdgm: tumour mask \[4, 4, 4\] is not on the volume's grid"),
        (damaged_volume, "s4 of ucsf-pdgm.*make the volume again"),
        (other_preprocessing, "s4 of ucsf-pdgm: preprocessed unlike the encoder's volumes: spacing"),
        (no_encoder, "an encoder folder is made by `neurorad pretrain`"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(study, spoil, said):
    spoil(study)
    with pytest.raises(InputError, match=said):
        explain(study)
    assert not (study / "out").exists(), "nothing half-written"


def test_a_layer_without_a_spatial_map_is_refused_by_name(study, monkeypatch):
    architecture = Architecture("resnet10", 4, 2, True, "group")
    save_weights(study / "byol-dro-s0", initialised(architecture, seed=0))
    write_json(study / "byol-dro-s0" / "card.json", {"architecture": vars(architecture), "preprocessing": CONTRACT})
    explain(study, layer="layer3")
    for i in range(6):
        path = study / "ucsf-pdgm" / f"s{i}.b2nd"
        volumes.save(path, volumes.load(path)[:, :16, :16, :16], {"preprocessing": CONTRACT})
        path.with_name(f"s{i}.tumour.npy").unlink(missing_ok=True)
    with pytest.raises(
        InputError, match="--layer layer4: its map has one voxel on these volumes; take an earlier layer"
    ):
        explain(study, layer="layer4", out=study / "deep")
