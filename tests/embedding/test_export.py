"""An exported encoder gives the same embeddings, from the folder and from ONNX; scans of any user go through in one call."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from neurorad import scan_folders
from neurorad.cli import main
from neurorad.embedding.export import probe_volume
from neurorad.encoder import Architecture, Encoder, initialised, load_encoder, save_weights
from neurorad.files import read_table, write_json
from neurorad.problems import InputError
from neurorad.scan_folders import settings_of

from .conftest import CONTRACT, features, store
from .test_rivals import run


def make_encoder(folder, norm: str = "group", presence: bool = False, **card) -> Encoder:
    architecture = Architecture("resnet10", 4, 2, False, norm, presence)
    encoder = initialised(architecture, 3).eval()
    save_weights(folder, encoder)
    values = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    groups = [{"group": "brats-gli-pre", "scans": 7}]
    made = {"method": "byol", "objective": "dro", "seed": 3, "scans": 7, "patients": 5, "groups": groups}
    write_json(folder / "card.json", {"architecture": values, "preprocessing": CONTRACT, **made, **card})
    return encoder


@pytest.mark.parametrize(("norm", "presence"), [("group", False), ("batch", True), ("instance", False)])
def test_the_export_read_again_gives_the_same_embeddings(tmp_path, capsys, norm, presence):
    encoder = make_encoder(tmp_path / "own", norm, presence)
    main(["export", "--encoder", str(tmp_path / "own"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.count("read back with the same embeddings") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "config.json", "encoder.onnx", "model.safetensors")
    ]
    volume = torch.randn(3, 4, *CONTRACT["shape"], generator=torch.Generator().manual_seed(8))
    volume[1, 2] = 0
    with torch.no_grad():
        expected = encoder(volume).numpy()
        again, card = load_encoder(tmp_path / "out")
        np.testing.assert_allclose(again(volume).numpy(), expected, rtol=0, atol=1e-5)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"))
    found = session.run(["embedding"], {"volumes": volume.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    assert card["preprocessing"] == CONTRACT
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(encoder.state_dict())


def test_the_model_card_says_what_it_is_made_from_and_names_no_path(tmp_path):
    make_encoder(tmp_path / "own")
    main(["export", "--encoder", str(tmp_path / "own"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "# byol-dro-s3",
        "7 scans of 5 patients",
        '"MNI152',
        "Research use only",
        "group brats-gli-pre",
        "load_encoder",
    ):
        assert said in text
    assert str(tmp_path) not in text + (tmp_path / "out" / "config.json").read_text()


def test_an_export_that_differs_is_refused(tmp_path, monkeypatch):
    from neurorad.embedding import export

    encoder = make_encoder(tmp_path / "own")
    monkeypatch.setattr(export, "load_encoder", lambda folder: (initialised(encoder.architecture, 4).eval(), {}))
    with pytest.raises(InputError, match="gives other embeddings than the encoder"):
        export.export_folder(encoder, json.loads((tmp_path / "own" / "card.json").read_text()), tmp_path / "out")


def test_folders_of_volumes_are_embedded_in_one_call_by_a_shared_folder_and_by_name(tmp_path, monkeypatch):
    encoder = make_encoder(tmp_path / "results" / "encoders" / "byol-dro-s3")
    main(
        ["export", "--encoder", str(tmp_path / "results" / "encoders" / "byol-dro-s3"), "--out", str(tmp_path / "hub")]
    )
    table = store(tmp_path, "mine", 2, masks=False)
    monkeypatch.chdir(tmp_path)
    for name, out in (("byol-dro-s3", "a.parquet"), ("hub", "b.parquet")):
        main(["embed", "--encoder", name, "--out", out, "mine"])
    main(["embed", "--encoder", "hub", "--out", "c.parquet", "--volumes", str(table)])
    first, second, third = (read_table(tmp_path / f"{x}.parquet") for x in "abc")
    assert first["scan"].tolist() == ["mine-0", "mine-1"] and first["cohort"].tolist() == ["given"] * 2
    assert features(tmp_path / "a.parquet").shape == (2, encoder.dimension)
    for other in (second, third):
        np.testing.assert_allclose(other.filter(regex=r"^e\d"), first.filter(regex=r"^e\d"), rtol=0, atol=1e-6)


def test_a_contract_that_differs_is_refused_with_what_differs(tmp_path, capsys):
    make_encoder(tmp_path / "own", preprocessing={**CONTRACT, "spacing_mm": 1.0})
    store(tmp_path, "mine", 1, masks=False)
    said = run(capsys, "embed", "--encoder", tmp_path / "own", "--out", tmp_path / "x.parquet", tmp_path / "mine")
    assert "scan mine-0 of given: preprocessed unlike the encoder's" in said and "spacing_mm: 1.0 against 4.0" in said
    with pytest.raises(InputError, match="normalisation: min-max against z-score"):
        settings_of({**CONTRACT, "normalisation": "min-max"}, None, "deepbet")
    with pytest.raises(InputError, match="atlas: sha256 abc, rigid against MNI152 .* given with --atlas"):
        settings_of({**CONTRACT, "atlas": "sha256 abc, rigid"}, None, "deepbet")
    assert settings_of(CONTRACT, None, "synthstrip")["brain_mask"] == {"method": "synthstrip"}


def test_what_is_given_wrong_is_said(tmp_path, capsys):
    make_encoder(tmp_path / "own")
    store(tmp_path, "mine", 1, masks=False)
    out = ["--out", tmp_path / "x.parquet"]
    (tmp_path / "empty").mkdir()
    cases = [
        (["--encoder", "nowhere", *out, tmp_path / "mine"], "neither a folder nor an encoder in results/encoders"),
        (["--encoder", tmp_path / "own", *out], "give either --volumes or folders"),
        (["--encoder", tmp_path / "own", *out, tmp_path / "gone"], "gone: no such folder"),
        (["--encoder", tmp_path / "own", *out, tmp_path / "empty"], "holds neither NIfTI nor DICOM"),
        (
            ["--encoder", tmp_path / "own", *out, tmp_path / "mine", tmp_path / "mine"],
            "mine_mine-0: left out: 2 scans are called so",
        ),
        (["--encoder", tmp_path / "mine", *out, tmp_path / "mine"], "no such file; an encoder folder is made by"),
        (["--rival", "intensity", *out, tmp_path / "mine"], "--rival and --settings belong together"),
    ]
    for arguments, said in cases:
        assert said in run(capsys, "embed", *arguments)
    (tmp_path / "own" / "card.json").write_text("{")
    assert "damaged file" in run(capsys, "embed", "--encoder", tmp_path / "own", *out, tmp_path / "mine")


def test_scans_are_preprocessed_as_the_card_says_and_the_unusable_named(tmp_path, capsys, monkeypatch):
    """The imaging stage stands aside here; tests/embedding/test_study.py goes through it."""
    from neurorad.imaging import commands

    make_encoder(tmp_path / "own")
    made = read_table(store(tmp_path, "made", 1, masks=False))
    asked = {}

    def run_volumes(args):
        asked.update(json.loads(args.settings))
        good = made.assign(cohort="given", scan="good")
        bad = good.assign(scan="bad", status="excluded", reason="missing sequence t2w", volume="", sha256="")
        scan_folders.write_table(args.out, scan_folders.pd.concat([good, bad]))

    monkeypatch.setattr(commands, "run_volumes", run_volumes)
    for name in ("good", "bad"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for sequence in ("t1n", "t1c", "t2w", "t2f")[: 4 if name == "good" else 2]:
            (tmp_path / "scans" / name / f"{sequence}.nii.gz").touch()
    main(["embed", "--encoder", str(tmp_path / "own"), "--out", str(tmp_path / "e.parquet"), str(tmp_path / "scans")])
    assert asked == {
        **{"spacing": 4.0, "shape": CONTRACT["shape"], "n4": True},
        **{"brain_mask": {"method": "deepbet"}, "missing_sequence": "exclude"},
    }
    assert read_table(tmp_path / "e.parquet")["scan"].tolist() == ["good"]
    assert "bad: left out: missing sequence t2w" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "scans" / "good")
    monkeypatch.setattr(
        commands, "run_volumes", lambda a: scan_folders.write_table(a.out, made.assign(status="excluded", reason="bad"))
    )
    said = run(capsys, "embed", "--encoder", tmp_path / "own", "--out", tmp_path / "f.parquet", tmp_path / "scans")
    assert "no scan could be used" in said


def test_the_noise_that_is_compared_is_always_the_same():
    assert torch.equal(probe_volume({"preprocessing": CONTRACT}), probe_volume({"preprocessing": CONTRACT}))
