"""Encoder names are made from the config and taken apart again."""

import pytest

from neurorad.encoder_names import encoder_names, encoder_parts, ensemble_names, members
from neurorad.problems import InputError


def test_names_are_made_in_the_order_of_the_config_and_taken_apart_again():
    names = encoder_names({"methods": ["moco", "byol"], "objectives": ["base", "dro"], "seeds": [1, 0]})
    assert names[:4] == ["moco-base-s1", "moco-base-s0", "moco-dro-s1", "moco-dro-s0"]
    assert len(names) == 8
    assert encoder_parts(names[-1]) == ("byol", "dro", 0)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("byol-dro-s1", ("byol", "dro", 1)),
        ("moco-base-s12", ("moco", "base", 12)),
        ("mae-dro", ("mae", "dro", 0)),
        ("random-s3", ("random", "none", 3)),
        ("clinical", ("clinical", "none", 0)),
        ("dino-group-dro-s2", ("dino", "group-dro", 2)),
    ],
)
def test_an_encoders_name_says_method_objective_and_seed(name, parts):
    assert encoder_parts(name) == parts


@pytest.mark.parametrize("name", ["", "-dro-s0"])
def test_a_name_without_method_is_refused(name):
    with pytest.raises(InputError, match="METHOD-OBJECTIVE-sSEED"):
        encoder_parts(name)


def test_an_ensemble_joins_one_encoder_a_method_under_its_objective_and_seed():
    pretraining = {"methods": ["byol", "mae"], "objectives": ["base", "dro"], "seeds": [0, 2]}
    assert ensemble_names(pretraining) == [f"ensemble-{o}-s{s}" for o in ("base", "dro") for s in (0, 2)]
    assert members("ensemble-dro-s2", pretraining["methods"]) == ["byol-dro-s2", "mae-dro-s2"]
    assert encoder_parts("ensemble-dro-s2") == ("ensemble", "dro", 2)
    assert ensemble_names({**pretraining, "methods": ["byol"]}) == []
