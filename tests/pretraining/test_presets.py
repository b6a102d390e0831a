"""Presets: the shipped ones are valid, slips are refused."""

import copy
import math
import re

import pytest
import yaml

from neurorad import RESOURCES
from neurorad.pretraining.presets import LIMITS, read_preset
from neurorad.problems import InputError

SHIPPED = RESOURCES / "presets.yaml"


@pytest.mark.parametrize("method", ["byol", "dino", "mae", "moco"])
def test_shipped_presets_are_valid(method):
    encoders = {"demo": "resnet10", "demo_arms": "resnet10", "modern": "resnet50"}
    for name, encoder in {**encoders, "paper_text": "resnet50", "paper_code": "resnet10"}.items():
        preset = read_preset(SHIPPED, name, method)
        assert preset.encoder.name == encoder
        assert set(preset.values) == {"encoder", "training", "geometry", "intensity", "dro", method}


def flat(values: object, prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    return {name: value for key, part in values.items() for name, value in flat(part, f"{prefix}{key}.").items()}


def test_the_ledger_names_every_difference_between_text_code_and_modern_and_no_other():
    ledger = yaml.safe_load((RESOURCES / "preset_ledger.yaml").read_text())
    presets = yaml.safe_load(SHIPPED.read_text())
    names = ("paper_text", "paper_code", "modern")
    values = {name: flat(presets[name]) for name in names}
    differing = {key: {name: values[name][key] for name in names} for key in values["modern"]}
    differing = {key: row for key, row in differing.items() if any(row[name] != row["modern"] for name in names)}
    listed = {entry["key"]: {name: entry[name] for name in names} for entry in ledger["differences"]}
    assert listed == differing
    assert len(listed) == len(ledger["differences"])
    assert all(len(entry["source"]) > 10 for entry in ledger["differences"])
    assert all(set(entry) == {"item", "published", "here"} for entry in ledger["not_reproduced"])


def test_the_papers_presets_say_what_the_paper_and_its_code_say():
    text, code = (read_preset(SHIPPED, name, "moco") for name in ("paper_text", "paper_code"))
    assert (text.encoder.name, text.training.learning_rate) == ("resnet50", 1e-5)
    assert text.training.steps == pytest.approx(100 * 7414 / text.training.batch_size, rel=0.001)
    assert (code.encoder.name, code.training.learning_rate, code.training.schedule) == ("resnet10", 1e-4, "constant")
    assert (code.method.queue, code.method.temperature, code.training.sampling) == (65536, 0.07, "natural")


def test_the_arms_differ_from_the_demo_in_the_sampler_alone():
    presets = {name: flat(values) for name, values in yaml.safe_load(SHIPPED.read_text()).items()}
    differing = [key for key, value in presets["demo"].items() if presets["demo_arms"][key] != value]
    assert differing == ["training.sampling"]


def change(tmp_path, edit):
    presets = yaml.safe_load(SHIPPED.read_text())
    edit(presets["demo"])
    path = tmp_path / "presets.yaml"
    path.write_text(yaml.safe_dump(presets))
    return path


SLIPS = {
    "training: unknown stepz; missing steps; its keys are ": lambda p: p["training"].update(
        stepz=p["training"].pop("steps")
    ),
    r"training\.learning_rate: expected float, got '1e-4'": lambda p: p["training"].update(learning_rate="1e-4"),
    r"training\.steps: expected int, got 1\.5": lambda p: p["training"].update(steps=1.5),
    r"byol\.momentum: expected a list of 2": lambda p: p["byol"].update(momentum=0.9),
    r"expected int, got True": lambda p: p["training"].update(batch_size=True),
    "preset demo: unknown simclr; its keys are ": lambda p: p.update(simclr={}),
    "preset demo: missing dro; its keys are ": lambda p: p.pop("dro"),
    r"presets\.yaml: preset demo: training: training\.steps 20 .* batch_size 1 at least 2": lambda p: p[
        "training"
    ].update(batch_size=1),
    r"byol has crops of 16 voxels.*too few for encoder\.norm instance": lambda p: (
        p["encoder"].update(norm="instance"),
        p["byol"]["crop"].update(size=16),
    ),
    r"schedule is 'steps', not one of cosine, constant": lambda p: p["training"].update(schedule="steps"),
    r"training: training\.sampling is 'odd', not one of balanced, natural, by_objective": lambda p: p[
        "training"
    ].update(sampling="odd"),
    r"intensity\.gamma: 0\.5 is not within \[1, 10\]": lambda p: p["intensity"].update(gamma=0.5),
    r"preset demo: mae\.block 8 is no multiple of the encoder's stride 16": lambda p: p["mae"].update(
        masking="sparse", tube=1.0
    ),
    r"intensity\.contrast: 0\.9 is not within \[1, 10\]": lambda p: p["intensity"].update(contrast=0.9),
    r"intensity\.low_resolution: 0\.5 is not within": lambda p: p["intensity"].update(low_resolution=0.5),
    r"intensity\.gibbs: 1\.0 is not within \[0, 0\.99\]": lambda p: p["intensity"].update(gibbs=1.0),
    r"intensity\.bias: 1e\+300 is not within \[0, 10\]": lambda p: p["intensity"].update(bias=1e300),
    r"moco\.temperature: 1e-300 is not within": lambda p: p["moco"].update(temperature=1e-300),
    r"byol\.crop\.scale: 1e-300 is not within": lambda p: p["byol"]["crop"].update(scale=[1e-300, 1.0]),
    r"training\.steps: a number of 401 digits is more than 2147483647": lambda p: p["training"].update(steps=10**400),
    r"dro\.eta: 1e\+308 is not within \[0, 1e\+06\]": lambda p: p["dro"].update(eta=1e308),
    r"byol\.momentum: 1\.5 is not within \[0, 1\]": lambda p: p["byol"].update(momentum=[0.9, 1.5]),
    r"byol\.hidden: 0 is not within \[2, inf\]": lambda p: p["byol"].update(hidden=0),
    r"intensity\.noise: -0\.1 is not within \[0, 10\]": lambda p: p["intensity"].update(noise=-0.1),
    r"training\.learning_rate: inf is not within the finite numbers": lambda p: p["training"].update(
        learning_rate=float("inf")
    ),
    r"dro\.eta: nan is not within": lambda p: p["dro"].update(eta=float("nan")),
    r"dino\.student_temperature: 0 is not": lambda p: p["dino"].update(student_temperature=0),
    r"moco\.version is 4": lambda p: p["moco"].update(version=4),
    r"moco\.negatives is 'none'": lambda p: p["moco"].update(negatives="none"),
    r"byol\.crop: crop size 4 must be at least 8": lambda p: p["byol"]["crop"].update(size=4),
    r"presets\.yaml: preset demo: encoder: .*norm 'layer' is not one of": lambda p: p["encoder"].update(norm="layer"),
}


@pytest.mark.parametrize("message", SLIPS)
def test_slips_are_refused(message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_preset(change(tmp_path, SLIPS[message]), "demo", "mae" if "mae" in message else "byol")


def numbers_of(values: dict, prefix: tuple = ()) -> list[tuple]:
    """The path of each number, or list of numbers, of a preset."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += numbers_of(value, (*prefix, key))
        elif isinstance(value, int | float | list) and not isinstance(value, bool):
            found.append((*prefix, key))
    return found


def test_no_number_may_be_negative_and_each_ends_where_its_limits_do(tmp_path):
    demo = yaml.safe_load(SHIPPED.read_text())["demo"]
    paths = numbers_of(demo)
    assert set(LIMITS) <= {path[-1] for path in paths}
    tried = [(path, -9) for path in paths]
    tried += [(path, LIMITS[path[-1]][1] + 1) for path in paths if LIMITS.get(path[-1], (0, math.inf))[1] < math.inf]
    for path, wrong in tried:
        preset = copy.deepcopy(demo)
        section = preset
        for key in path[:-1]:
            section = section[key]
        before = section[path[-1]]
        wrong = type(before[0] if isinstance(before, list) else before)(wrong)
        section[path[-1]] = [wrong, wrong] if isinstance(before, list) else wrong
        (tmp_path / "p.yaml").write_text(yaml.safe_dump({"demo": preset}))
        with pytest.raises(InputError, match=rf"preset demo: .*{path[-1]}.*{re.escape(str(wrong))}"):
            read_preset(tmp_path / "p.yaml", "demo", "byol")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no preset 'huge'; it has demo, demo_arms, modern"):
        read_preset(SHIPPED, "huge", "byol")
    with pytest.raises(InputError, match="method 'simclr'"):
        read_preset(SHIPPED, "demo", "simclr")
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        read_preset(tmp_path / "none.yaml", "demo", "byol")
    (tmp_path / "latin.yaml").write_bytes("# für\ndemo: {}".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not UTF-8"):
        read_preset(tmp_path / "latin.yaml", "demo", "byol")
    for text, said in (
        ("demo: {a: 1, b: 2, a: 3}", "found the key 'a' twice"),
        ("demo: 2026-13-45", "month must be in 1..12"),
        ("[" * 5000, "not valid YAML"),
        ("demo: !!int ''", "not valid YAML"),
        ("demo: !!bool x", "not valid YAML"),
        ("demo: {1: 2, x: 3}", "unknown 1, x; missing byol, dro"),
    ):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(InputError, match=rf"odd\.yaml.*{said}"):
            read_preset(tmp_path / "odd.yaml", "demo", "byol")
    (tmp_path / "numbered.yaml").write_text(yaml.safe_dump({7: yaml.safe_load(SHIPPED.read_text())["demo"]}))
    assert read_preset(tmp_path / "numbered.yaml", "7", "byol").training.steps == 20
    with pytest.raises(InputError, match="no preset 'demo'; it has 7"):
        read_preset(tmp_path / "numbered.yaml", "demo", "byol")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_preset(tmp_path / "broken.yaml", "demo", "byol")
