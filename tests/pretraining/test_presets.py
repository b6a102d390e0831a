"""Presets: the shipped ones are valid, slips are refused."""

import pytest
import yaml

from neurorad import RESOURCES
from neurorad.pretraining.presets import read_preset
from neurorad.problems import InputError

SHIPPED = RESOURCES / "presets.yaml"


@pytest.mark.parametrize("method", ["byol", "dino", "mae", "moco"])
def test_shipped_presets_are_valid(method):
    for name, encoder in (("demo", "resnet10"), ("modern", "resnet50")):
        preset = read_preset(SHIPPED, name, method)
        assert preset.encoder.name == encoder
        assert set(preset.values) == {"encoder", "training", "geometry", "intensity", "dro", method}


def change(tmp_path, edit):
    presets = yaml.safe_load(SHIPPED.read_text())
    edit(presets["demo"])
    path = tmp_path / "presets.yaml"
    path.write_text(yaml.safe_dump(presets))
    return path


SLIPS = {
    r"training: unknown keys \['stepz'\], missing keys \['steps'\]": lambda p: p["training"].update(
        stepz=p["training"].pop("steps")
    ),
    r"training\.learning_rate: expected float, got '1e-4'": lambda p: p["training"].update(learning_rate="1e-4"),
    r"training\.steps: expected int, got 1\.5": lambda p: p["training"].update(steps=1.5),
    r"byol\.momentum: expected a list of 2": lambda p: p["byol"].update(momentum=0.9),
    r"expected int, got True": lambda p: p["training"].update(batch_size=True),
    r"unknown keys \['simclr'\]": lambda p: p.update(simclr={}),
    r"missing keys \['dro'\]": lambda p: p.pop("dro"),
    r"batch_size at least 2": lambda p: p["training"].update(batch_size=1),
    r"norm 'layer' is not one of": lambda p: p["encoder"].update(norm="layer"),
}


@pytest.mark.parametrize("message", SLIPS)
def test_slips_are_refused(message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_preset(change(tmp_path, SLIPS[message]), "demo", "byol")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no preset 'huge'; it has demo, modern"):
        read_preset(SHIPPED, "huge", "byol")
    with pytest.raises(InputError, match="method 'simclr'"):
        read_preset(SHIPPED, "demo", "simclr")
    with pytest.raises(InputError, match="no such preset file"):
        read_preset(tmp_path / "none.yaml", "demo", "byol")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_preset(tmp_path / "broken.yaml", "demo", "byol")
