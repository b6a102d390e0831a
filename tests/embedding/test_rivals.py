"""Every rival through `neurorad embed`, as a study calls it; what is wrong with its input is one message."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from neurorad.cli import main
from neurorad.embedding.scans import clinical, embed_each, read_usable, tumour_mask
from neurorad.embedding.statistics import INTENSITY, RADIOMICS
from neurorad.files import read_table, write_json, write_table
from neurorad.problems import InputError
from neurorad.rivals import WEIGHTS, absent, combat_names, frozen_names, harmonised, start_of, tuned_names
from neurorad.volumes import card_path

from .conftest import CONTRACT, SHAPE, features, store, volume


def run(capsys, *arguments) -> str:
    """What the verb says when it refuses."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code == 2
    return capsys.readouterr().err


def embed(volumes, name: str, settings: dict, out) -> np.ndarray:
    main(["embed", "--rival", name, "--settings", json.dumps(settings), "--volumes", str(volumes), "--out", str(out)])
    return features(out)


class Means(nn.Module):
    """`[B, 4, D, H, W] -> [B, 8]`: mean and largest value of each sequence."""

    def forward(self, volumes):
        return torch.cat([volumes.mean(dim=(2, 3, 4)), volumes.amax(dim=(2, 3, 4))], dim=1)


EXPECTED = np.stack([np.r_[v.mean(axis=(1, 2, 3)), v.max(axis=(1, 2, 3))] for v in (volume(i + 400) for i in range(3))])


def test_statistics_are_embedded_and_the_unmasked_left_out(volumes, tmp_path, capsys):
    assert embed(volumes, "intensity", {}, tmp_path / "i.parquet").shape == (3, len(INTENSITY))
    (volumes.parent / "here-1.tumour.npy").unlink()
    np.save(volumes.parent / "here-2.tumour.npy", np.zeros(SHAPE, np.uint8))
    assert embed(volumes, "radiomics", {}, tmp_path / "r.parquet").shape == (1, len(RADIOMICS))
    assert "2 of 3 scans left out: no tumour mask" in capsys.readouterr().err
    none = store(tmp_path, "bare", 2, masks=False)
    assert embed(none, "radiomics", {}, tmp_path / "n.parquet").shape == (0, len(RADIOMICS))


def test_a_mask_on_another_grid_is_refused(volumes, tmp_path, capsys):
    np.save(volumes.parent / "here-1.tumour.npy", np.ones((3, 3, 3), np.uint8))
    said = run(
        capsys, "embed", "--rival", "radiomics", "--settings", "{}", "--volumes", volumes, "--out", tmp_path / "r"
    )
    assert "scan here-1 of here: tumour mask [3, 3, 3] is not on the volume's grid [24, 28, 20]" in said
    row = next(read_table(volumes).itertuples())
    np.save(volumes.parent / "here-0.tumour.npy", np.array([{"code": 1}], dtype=object))
    with pytest.raises(InputError, match="unreadable tumour mask"):
        tumour_mask(row, SHAPE)


def as_torchscript(folder):
    torch.jit.script(Means()).save(str(folder / "means.pt"))
    return {"torchscript": str(folder / "means.pt")}


def as_onnx(folder):
    torch.onnx.export(Means(), (torch.zeros(1, 4, *SHAPE),), str(folder / "means.onnx"), dynamo=False)
    return {"onnx": str(folder / "means.onnx")}


def as_python(folder):
    (folder / "means.py").write_text(
        "import numpy as np\n\n\ndef embed(volume, spacing_mm):\n"
        "    assert spacing_mm == 4.0 and volume.dtype == np.float32\n"
        "    return np.r_[volume.mean(axis=(1, 2, 3)), volume.max(axis=(1, 2, 3))]\n"
    )
    return {"python": str(folder / "means.py"), "function": "embed"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [as_torchscript, as_onnx, as_python])
def test_an_adapter_of_each_kind_keeps_the_contract(volumes, tmp_path, make):
    found = embed(volumes, "mine", make(tmp_path), tmp_path / "m.parquet")
    # Volumes are stored as float16.
    np.testing.assert_allclose(found, EXPECTED, atol=2e-3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return volume.mean(axis=(2, 3))", r"array of shape \[4, 24\]; one vector a volume"),
        ("return [float('nan')]", "NaN or infinite"),
        ("return 'text'", "gives str where a vector"),
        ("return np.random.rand(3)", "two vectors for one volume"),
        ("return volume.ravel()[: 5 + int(volume.sum() > 0) * 0 + calls()]", "gives 8 numbers here and 7"),
        ("raise KeyError('gone')", "embed failed .KeyError: 'gone'"),
    ],
)
def test_an_adapter_that_breaks_the_contract_is_told_how(volumes, tmp_path, capsys, body, said):
    head = "import itertools\nimport numpy as np\ncount = itertools.count()\n\n\ndef calls():\n    return max(2, next(count) + 1)\n"
    (tmp_path / "bad.py").write_text(f"{head}\n\ndef embed(volume, spacing_mm):\n    {body}\n")
    settings = json.dumps({"python": str(tmp_path / "bad.py"), "function": "embed"})
    told = run(
        capsys, "embed", "--rival", "mine", "--settings", settings, "--volumes", volumes, "--out", tmp_path / "x"
    )
    assert pd.Series([told]).str.contains(said).all(), told
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_of_another_input_and_files_of_another_kind_are_refused(volumes, tmp_path, capsys):
    class Flat(nn.Module):
        def forward(self, pictures):
            return pictures.mean(dim=(2, 3))

    torch.onnx.export(Flat(), (torch.zeros(1, 3, 8, 8),), str(tmp_path / "flat.onnx"), dynamo=False)
    torch.onnx.export(Means(), (torch.zeros(1, 4, 9, 9, 9),), str(tmp_path / "grid.onnx"), dynamo=False)
    torch.jit.trace(nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "flat.pt"))
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    (tmp_path / "no.py").write_text("import nowhere_at_all\n")
    cases = [
        ({"onnx": "flat.onnx"}, "[1, 3, 8, 8]; volumes are one tensor(float) [1, 4, 24, 28, 20]"),
        ({"onnx": "grid.onnx"}, "[1, 4, 9, 9, 9]; volumes are"),
        ({"torchscript": "flat.pt"}, "does not take [1, 4, 24, 28, 20] float32"),
        ({"onnx": "no.onnx"}, "no ONNX file"),
        ({"torchscript": "no.onnx"}, "no TorchScript file"),
        ({"python": "no.py", "function": "f"}, "cannot be imported (ModuleNotFoundError"),
        ({"onnx": "absent.onnx"}, "no such file"),
        ({"onnx": "flat.onnx", "sha256": "0" * 64}, "the config says 0000"),
        ({}, "is none of biomedclip"),
    ]
    for settings, said in cases:
        block = {k: str(tmp_path / v) if k not in ("function", "sha256") else v for k, v in settings.items()}
        flags = ["--settings", json.dumps(block), "--volumes", volumes, "--out", tmp_path / "x"]
        assert said in run(capsys, "embed", "--rival", "mine", *flags), settings


def test_volumes_of_two_contracts_are_refused_with_what_differs(tmp_path, volumes, capsys):
    other = card_path(read_table(volumes)["volume"][1])
    card = json.loads(other.read_text())
    write_json(other, {**card, "preprocessing": {**CONTRACT, "n4": False}})
    said = run(
        capsys, "embed", "--rival", "intensity", "--settings", "{}", "--volumes", volumes, "--out", tmp_path / "x"
    )
    assert "scan here-1 of here" in said and "n4: True against False" in said


def test_a_volume_of_another_shape_than_its_card_says_is_refused(tmp_path):
    path = store(tmp_path, "odd", 1, masks=False, contract={**CONTRACT, "shape": [24, 28, 21]})
    with pytest.raises(InputError, match=r"has shape \[24, 28, 20\], its card says \[24, 28, 21\]"):
        embed_each(read_usable(path), {**CONTRACT, "shape": [24, 28, 21]}, lambda voxels, row: voxels[0, 0, 0], 1)


def test_kps_and_extent_join_age_and_sex_where_they_are_known():
    table = pd.DataFrame({"cohort": "a", "scan": list("wxyz"), "patient": list("wxyz"), "session": "1"})
    patients = pd.DataFrame(
        {
            "cohort": "a",
            "patient": list("wxyz"),
            "age": [50.0, 60, 70, np.nan],
            "sex": ["F", "M", "F", "M"],
            "kps": [90.0, np.nan, np.nan, 80],
            "resection": ["GTR", "no GTR", None, "biopsy"],
        }
    )
    found = clinical(table, patients, full=True)
    assert found["scan"].tolist() == ["w", "x", "y"]
    expected = [[50, 0, 0.9, 1, 1, 1], [60, 1, 0, 0, 0.5, 1], [70, 0, 0, 0, 0, 0]]
    np.testing.assert_allclose(found[[f"e{i}" for i in range(6)]].to_numpy(float), expected, rtol=1e-6)
    assert clinical(table, patients)[["e0", "e1"]].to_numpy().tolist() == [[50, 0], [60, 1], [70, 0]]
    with pytest.raises(InputError, match="resection is 'partial' where GTR, STR, biopsy, no GTR or empty"):
        clinical(table, patients.assign(resection="partial"), full=True)


def test_names_say_what_a_rival_is():
    rivals = {"random": [0, 3], "intensity": True, "radiomics": False, "combat": True, "brainiac": {"weights": "w"}}
    assert frozen_names(rivals) == ["random-s0", "random-s3", "intensity", "brainiac"]
    assert set(absent(rivals)) == {
        "biomedclip",
        "medicalnet",
        "medblip",
        "radiomics",
        "clinical-full",
        "scratch-tuned-s0",
    }
    assert frozen_names({}) == ["random-s0"] and set(WEIGHTS) < set(absent({}))
    assert "medblip" not in absent({"adapters": {"medblip": {}}})
    tuned = tuned_names({"finetune": {"from": ["scratch", "byol-dro-s2"]}})
    assert tuned == ["scratch-tuned-s0", "byol-dro-tuned-s2"]
    assert [start_of(name) for name in tuned] == ["scratch", "byol-dro-s2"]
    (combat,) = combat_names(rivals, ["byol-base-s1", "byol-dro-s1"])
    assert combat == "byol-base-combat-s1" and harmonised(combat) == "byol-base-s1"
    assert harmonised("byol-dro-s1") == "byol-dro-s1"


def test_the_list_of_rivals_gives_a_reason_for_each_that_is_absent(tmp_path):
    main(["rivals", "--settings", '{"brainiac": {"weights": "w"}}', "--out", str(tmp_path / "rivals.tsv")])
    table = read_table(tmp_path / "rivals.tsv").fillna("").set_index("encoder")
    assert table.loc["brainiac", "pretrained_elsewhere"] == "yes" and table.loc["brainiac", "reason"] == ""
    assert table.loc["medblip", "reason"] == "its weights are not released"
    assert table.loc["biomedclip", "reason"] == "no weights given"


def test_a_table_without_the_volumes_card_is_refused(volumes, tmp_path, capsys):
    card_path(read_table(volumes)["volume"][0]).unlink()
    said = run(
        capsys, "embed", "--rival", "intensity", "--settings", "{}", "--volumes", volumes, "--out", tmp_path / "x"
    )
    assert "no card beside" in said
    write_table(tmp_path / "empty.tsv", read_table(volumes).assign(status="excluded"))
    said = run(
        capsys, "embed", "--rival", "intensity", "--settings", "{}", "--volumes", tmp_path / "empty.tsv", "--out", "x"
    )
    assert "no volume has status ok" in said
