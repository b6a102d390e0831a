"""Every rival through the DAG of a tiny study, with weights made here, into Figure 3A; and a scan of it in one call."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from monai.networks.nets import resnet50

from neurorad.cli import main
from neurorad.files import read_table

from ..workflow.small_study import ROOT, STUDY, phantom_cohort
from .conftest import features
from .test_published import clip_file
from .test_rivals import Means, as_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FROZEN = ("biomedclip", "medicalnet", "brainiac", "mine", "other", "medblip", "intensity", "radiomics", "clinical-full")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    clip_file(folder / "clip.bin")
    torch.manual_seed(0)
    tensors = resnet50(n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, folder / "medicalnet.pth")
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in tensors.items()}}, folder / "brainiac.ckpt")
    shape = STUDY["imaging"]["shape"]
    torch.jit.script(Means()).save(str(folder / "mine.pt"))
    torch.onnx.export(Means(), (torch.zeros(1, 4, *shape),), str(folder / "other.onnx"), dynamo=False)
    as_python(folder)

    def weights(key: str, name: str) -> dict:
        return {key: name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    rivals = {
        **{"random": [0, 1], "intensity": True, "radiomics": True, "clinical_full": True, "combat": True},
        "biomedclip": {**weights("weights", "clip.bin"), "slices": 2},
        "medicalnet": {**weights("weights", "medicalnet.pth"), "join": "mean"},
        "brainiac": {**weights("weights", "brainiac.ckpt"), "join": "mean"},
        "adapters": {
            "mine": weights("torchscript", "mine.pt"),
            "other": weights("onnx", "other.onnx"),
            "medblip": {"python": "means.py", "function": "embed"},
        },
        "finetune": {"from": ["scratch", "byol-base-s0"], "endpoints": ["mgmt"], "epochs": 1, "batch_size": 4},
    }
    (folder / "means.py").write_text((folder / "means.py").read_text().replace("spacing_mm == 4.0 and ", ""))
    cohorts = {
        "brats-ped": phantom_cohort("brats-ped", "pretrain"),
        "ucsf-pdgm": phantom_cohort("ucsf-pdgm", "test", labels="UCSF-PDGM-metadata_v5.csv"),
        "cuimc": phantom_cohort("cuimc", "test", labels="cuimc.csv"),
    }
    config = {**STUDY, "cohorts": cohorts, "rivals": rivals, "phantom": {"seed": 0, "scale": 0.25, "spacing": 4.0}}
    config["pretraining"] = {**STUDY["pretraining"], "objectives": ["base"]}
    config["evaluation"] = {**STUDY["evaluation"], "stress": {"shifts": ["blur", "missing"], "severities": [2]}}
    del config["leakage"], config["explanation"]
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    wanted = ["results/figures/fig3a_rivals.svg", "results/figures/supp3_stress.png", "results/tables/stress.csv"]
    wanted += [f"results/evaluation/{k}/{e}.parquet" for k in ("survival", "invariance") for e in ("radiomics", "mine")]
    tool = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder)]
    done = subprocess.run(
        [*tool, "--configfile", str(folder / "study.yaml"), "--cores", "2", "--scheduler", "greedy", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_every_rival_is_probed_on_the_same_patients(study):
    results = study / "results"
    own = read_table(results / "evaluation" / "probe" / "byol-base-s0.parquet")
    known = own[(own["metric"] == "auc") & own["value"].notna()]
    assert len(known)
    where = ["site", "endpoint", "protocol"]
    for name in ("random-s0", "random-s1", *FROZEN, "byol-base-combat-s0", "scratch-tuned-s0", "byol-base-tuned-s0"):
        rows = read_table(results / "evaluation" / "probe" / f"{name}.parquet")
        rows = rows[rows["metric"] == "auc"].set_index(where)
        assert set(rows["encoder"]) == {name}
        for row in known.itertuples():
            key = (row.site, row.endpoint, row.protocol)
            if name in ("radiomics", "clinical-full") or (name.endswith("-tuned-s0") and key not in rows.index):
                continue
            assert rows.loc[key, "n"] == row.n, (name, key)
    elsewhere = {"biomedclip", "medicalnet", "brainiac", "mine", "other", "medblip"}
    for name in FROZEN:
        stamp = read_table(results / "evaluation" / "probe" / f"{name}.parquet")["leakage"].iloc[0]
        assert (f"{name} was pretrained outside this study" in stamp) == (name in elsewhere), stamp


def test_combat_changes_the_pooled_probe(study):
    """Within one site it changes nothing (tests/evaluation/test_combat.py); here no site has patients enough for a probe."""
    base, combat = (
        read_table(study / "results" / "evaluation" / "probe" / f"byol-base{x}-s0.predictions.parquet")
        for x in ("", "-combat")
    )
    key = ["endpoint", "protocol", "site", "patient"]
    joined = base.merge(combat, on=key, suffixes=("", "_combat"))
    assert len(joined) == len(base)
    changed = (joined["score"] - joined["score_combat"]).abs().groupby(joined["protocol"]).max()
    assert changed["combined"] > 1e-6


def test_the_figure_has_a_row_for_each_and_a_star_for_what_comes_from_elsewhere(study):
    rivals = read_table(study / "results" / "embeddings" / "rivals.tsv").fillna("")
    assert set(rivals.loc[rivals["reason"] == "", "encoder"]) == {"random-s0", "random-s1", *FROZEN}
    assert (study / "results" / "figures" / "fig3a_rivals.png").stat().st_size > 20_000


def test_shifted_volumes_are_judged_by_the_probes_of_the_clean_ones(study):
    rows = pd.read_csv(study / "results" / "tables" / "stress.csv")
    assert set(rows["encoder"]) == {"byol-base-s0", "random-s0"}
    assert set(rows["shift"].dropna()) == {"blur", "missing"}
    # Every subset of the four sequences but none and all.
    assert rows.loc[rows["shift"] == "missing", "level"].nunique() == 14
    clean, shifted = (
        read_table(study / "results/embeddings/byol-base-s0" / name)
        for name in ("ucsf-pdgm.parquet", "stress/ucsf-pdgm.parquet")
    )
    assert set(shifted["scan"]) == set(clean["scan"])


def test_a_raw_scan_in_one_call_gives_the_embedding_of_the_study(study, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    table = read_table("results/embeddings/byol-base-s0/ucsf-pdgm.parquet")
    scans = read_table("results/cohorts/ucsf-pdgm/scans.tsv").set_index("scan")
    scan = table["scan"].iloc[0]
    source = pd.Series(scans.loc[scan, ["t1n", "t1c", "t2w", "t2f"]])
    folder = tmp_path / "someone"
    folder.mkdir()
    for name, path in source.items():
        (folder / f"x_{name}.nii.gz").write_bytes((study / path).read_bytes())
    main(["embed", "--encoder", "byol-base-s0", "--out", str(tmp_path / "e.parquet"), str(folder)])
    expected = table.filter(regex=r"^e\d+$").iloc[0].to_numpy(float)
    np.testing.assert_allclose(features(tmp_path / "e.parquet")[0], expected, rtol=0, atol=1e-5)
    assert json.loads((study / "results/encoders/byol-base-s0/card.json").read_text())["method"] == "byol"
