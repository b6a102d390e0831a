"""Flags: what a shell splits them into is what the verb's own parser reads."""

import json
import shlex

from neurorad.cli import parser
from neurorad.job_flags import (
    canonical,
    decision_flag,
    encoder_flags,
    finetune_flags,
    group_flags,
    inventory_flags,
    label_flags,
    stress_flags,
)

NASTY = "a b'c\"d$(e)"


def parsed(verb: str, flags: str, **others: str):
    required = [word for key, value in others.items() for word in (f"--{key.replace('_', '-')}", value)]
    return parser(verb).parse_args([verb, *shlex.split(flags), *required])


def test_one_text_whatever_the_order_of_keys():
    assert canonical({"b": [1], "a": {"d": 1, "c": 2}}) == canonical({"a": {"c": 2, "d": 1}, "b": [1]})
    assert canonical({"a": 1}) != canonical({"a": 2})


def test_inventory():
    block = {"release": "generic", "images": NASTY, "pattern": "{patient}/*", "sequences": {"t1n": NASTY}, "role": []}
    args = parsed("inventory", inventory_flags(block, {}), cohort="mine", out="o")
    assert (args.release, str(args.images), args.pattern) == ("generic", NASTY, "{patient}/*")
    assert json.loads(args.sequences) == {"t1n": NASTY}
    assert (
        args.missing
        == parser("inventory")
        .parse_args(["inventory", "--cohort", "c", "--release", "r", "--images", "i", "--out", "o"])
        .missing
    )
    zero = parsed("inventory", inventory_flags(block, {"missing_sequence": "zero"}), cohort="mine", out="o")
    assert zero.missing == "zero"


def test_labels():
    decided = {"mgmt_indeterminate": "negative"}
    args = parsed("labels", label_flags("mine", {"release": "cuimc", "labels": NASTY}, decided), scans="s")
    assert (args.release, args.cohort, str(args.table)) == ("cuimc", "mine", NASTY)
    assert json.loads(args.decisions) == decided
    none = parsed("labels", label_flags("mine", {"release": "cuimc"}, {}), scans="s")
    assert (none.table, none.decisions) == (None, "{}")
    assert decision_flag({}) == ""


def test_groups():
    required = dict.fromkeys(("cohorts", "crosswalks", "volumes", "aliases", "manifest", "removed", "report"), "x")
    required["test_patients"] = "x"
    pretraining = {"groups": "column:grade", "min_patients": 3, "max_scans_per_patient": 2, "preset": "demo"}
    args = parsed("audit", group_flags(pretraining, ["a.tsv", NASTY]), **required)
    assert (args.groups, args.min_patients, args.max_scans) == ("column:grade", 3, 2)
    assert [str(path) for path in args.tables] == ["a.tsv", NASTY]
    assert group_flags({"preset": "demo"}, []) == ""


def test_what_to_embed_with():
    rivals = {"random": [3], "intensity": True, "clinical_full": True, "adapters": {"mine": {"python": NASTY}}}

    def args(name: str):
        return parsed("embed", encoder_flags(name, rivals, f"folder/{name}", NASTY, "p.tsv"), out="o")

    assert args("byol-dro-s0").encoder == "folder/byol-dro-s0"
    assert (args("random-s3").random, args("random-s3").like) == (3, NASTY)
    assert (str(args("clinical").clinical), args("clinical").full) == ("p.tsv", False)
    assert (str(args("clinical-full").clinical), args("clinical-full").full) == ("p.tsv", True)
    assert (args("intensity").rival, json.loads(args("intensity").settings)) == ("intensity", {})
    assert (args("mine").rival, json.loads(args("mine").settings)) == ("mine", {"python": NASTY})


def test_what_to_train_end_to_end():
    required = {"endpoint": "idh1", "folds": "f", "volumes": "v", "out": "o"}
    block = {"from": ["scratch"], "epochs": 3, "learning_rate": 0.1, "protocols": ["within_site", "leave_site_out"]}
    args = parsed("finetune", finetune_flags("scratch-tuned-s0", block, NASTY), **required)
    assert (args.scratch, args.encoder) == (NASTY, None)
    assert json.loads(args.recipe) == {"epochs": 3, "learning_rate": 0.1}
    assert (args.protocols, args.repeats) == (["within_site", "leave_site_out"], 1)
    args = parsed("finetune", finetune_flags("byol-dro-tuned-s0", {"repeats": 2}, "e"), **required)
    assert (args.scratch, args.encoder, args.protocols, args.repeats) == (None, "e", ["within_site"], 2)


def test_stress():
    required = {"encoder": "e", "volumes": "v", "out": "o"}
    args = parsed("embed-shifted", stress_flags({"shifts": ["noise", "blur"], "severities": [1, 3]}), **required)
    assert (args.shifts, args.severities) == (["noise", "blur"], [1, 3])
    assert parsed("embed-shifted", stress_flags({"shifts": ["bias"]}), **required).severities == [1, 2, 3]
