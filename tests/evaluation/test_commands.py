"""The verbs on files: the same seed writes the same bytes, file order does not matter, and wrong files are named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, write_table

SITES = {"a": 26, "b": 22}
ENCODERS = ("byol-base-s0", "byol-dro-s0")
STAMP = "LEAKAGE NOT EXCLUDED: no crosswalk was given"


@pytest.fixture(scope="module")
def inputs(glioblastomas, tmp_path_factory) -> Path:
    """Volumes (with a follow-up a patient), patients and embeddings of two sites, as the stages before write them."""
    root = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    hazard = random.normal(size=48)
    whole = glioblastomas(hazard, sites=SITES, mgmt=np.arange(48) % 2)
    later = whole.analysis.assign(scan=whole.analysis["scan"] + "-later", session="week-10")
    scans = pd.concat([later, whole.analysis.assign(session="week-9")]).assign(status="ok")
    for site, part in whole.labels.groupby("cohort"):
        write_table(root / site / "patients.tsv", part)
        write_table(root / site / "volumes.tsv", scans[scans["cohort"] == site])
    for encoder in ENCODERS:
        x = random.normal(size=(48, 9)) + np.outer(np.arange(48) % 2, np.ones(9)) + hazard[:, None]
        for site, part in whole.table(x, encoder).groupby("cohort"):
            write_table(root / encoder / f"{site}.parquet", part)
    (root / "leakage.json").write_text(json.dumps({"stamp": STAMP}))
    half = np.where(np.arange(48) % 3, "clean", "unproven")
    write_table(root / "test_patients.tsv", whole.analysis[["cohort", "patient"]].assign(status=half))
    return root


@pytest.fixture(scope="module")
def run(inputs) -> Callable[..., dict[str, bytes]]:
    """`run(folder, reverse=False, seed=0)`: all verbs; every file they wrote, by name."""

    def all_verbs(out: Path, reverse: bool = False, seed: int = 0) -> dict[str, bytes]:
        def files(pattern: str, root: Path = inputs) -> list[str]:
            return [str(path) for path in sorted(root.glob(pattern), reverse=reverse)]

        patients = ["--patients", *files("*/patients.tsv")]
        drawn = ["--repeats", "2", "--seed", str(seed), "--out", str(out / "folds.parquet")]
        main(["folds", *patients, "--volumes", *files("*/volumes.tsv"), *drawn])
        common = ["--folds", str(out / "folds.parquet"), "--leakage", str(inputs / "leakage.json")]
        common += ["--seed", str(seed), "--bootstrap", "40"]
        for encoder in ENCODERS:
            given = ["--encoder", encoder, "--embeddings", *files(f"{encoder}/*.parquet"), *common]

            def to(verb: str, *others: str, encoder: str = encoder) -> list[str]:
                name = str(out / verb / encoder)
                flags = [flag for other in others for flag in (f"--{other}", f"{name}.{other}.parquet")]
                return ["--out", f"{name}.parquet", *flags]

            main(["probe", *given, *to("probe", "predictions", "coefficients")])
            main(["survival", *given, *patients, *to("survival", "predictions", "coefficients", "curves")])
            main(["invariance", *given, *patients, *to("invariance", "coordinates")])
        predictions = files("*/*.predictions.parquet", out)
        found = [path.replace(".predictions", "") for path in predictions]
        given = ["--predictions", *predictions, "--found", *found, *common]
        main(["compare", *given, "--out", str(out / "comparison.parquet")])
        judged = ["--test-patients", str(inputs / "test_patients.tsv"), *common[2:]]
        main(["clean", "--predictions", *predictions, *judged, "--out", str(out / "clean.parquet")])
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}

    return all_verbs


@pytest.fixture(scope="module")
def told(run, tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    out = tmp_path_factory.mktemp("told")
    return out, run(out)


@pytest.fixture
def refused(inputs, told, tmp_path, capsys) -> Callable[..., str]:
    """Run a verb that must exit with status 2 and write nothing; returns what it said."""

    def attempt(verb: str, **flags: object) -> str:
        given = {
            "folds": told[0] / "folds.parquet",
            "leakage": inputs / "leakage.json",
            "out": tmp_path / "out.parquet",
            "bootstrap": 20,
        }
        if verb == "folds":
            given = {"out": given["out"]}
        if verb == "probe":
            given |= {"predictions": tmp_path / "p.parquet", "coefficients": tmp_path / "c.parquet"}
            given |= {"encoder": ENCODERS[0], "embeddings": sorted((inputs / ENCODERS[0]).glob("*.parquet"))}
        arguments = [verb]
        for name, value in {**given, **flags}.items():
            arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert not (tmp_path / "out.parquet").exists()
        return capsys.readouterr().err

    return attempt


def test_the_same_seed_writes_the_same_bytes_whatever_the_order_of_the_files(run, told, tmp_path):
    _, first = told
    assert len(first) == 1 + 1 + 1 + 2 * (3 + 4 + 2)
    assert run(tmp_path, reverse=True) == first


def test_another_seed_draws_other_folds_and_other_numbers(run, told, tmp_path):
    _, first = told
    second = run(tmp_path, seed=1)
    assert set(first) == set(second)
    # Layers trained on everybody know the seed only through the penalty it leads to; t-SNE starts from the PCA.
    drawn = [name for name in first if not name.endswith(("coefficients.parquet", "coordinates.parquet"))]
    assert [name for name in drawn if first[name] == second[name]] == []


def test_the_tables_hold_one_scan_a_patient_the_stamp_and_the_encoder(told):
    out, _ = told
    folds = read_table(out / "folds.parquet")
    assert not folds["scan"].str.endswith("-later").any()
    assert folds.groupby(["cohort", "patient"])["scan"].nunique().max() == 1
    for encoder in ENCODERS:
        for verb in ("probe", "survival", "invariance"):
            table = read_table(out / verb / f"{encoder}.parquet")
            assert set(table["leakage"]) == {STAMP} and set(table["encoder"]) == {encoder}
            assert table["value"].notna().any()
    comparison = read_table(out / "comparison.parquet")
    assert {"auc_difference", "c_index_difference"} <= set(comparison["metric"])
    assert set(comparison["leakage"]) == {STAMP}


def test_both_encoders_are_tested_on_the_same_patients(told):
    out, _ = told
    who = ["endpoint", "protocol", "site", "cohort", "patient", "scan"]
    for verb in ("probe", "survival"):
        first, second = (read_table(out / verb / f"{encoder}.predictions.parquet") for encoder in ENCODERS)
        pd.testing.assert_frame_equal(first[who], second[who])


def test_of_all_patients_the_table_of_the_clean_says_what_probe_and_survival_say(told):
    out, _ = told
    clean = read_table(out / "clean.parquet")
    assert set(clean["leakage"]) == {STAMP}
    where = ["encoder", "endpoint", "protocol", "site", "metric"]
    same = clean[clean["patients"] == "all"].set_index(where)
    first = pd.concat(
        [read_table(out / verb / f"{encoder}.parquet") for verb in ("probe", "survival") for encoder in ENCODERS]
    )
    first = first[first["metric"].isin(set(clean["metric"]))].set_index(where)
    assert {"auc", "balanced_accuracy", "c_index"} == set(clean["metric"])
    assert len(same) == first["value"].notna()[first.index.isin(same.index)].sum() > 0
    pd.testing.assert_series_equal(same["value"], first["value"].reindex(same.index))
    pd.testing.assert_series_equal(same["n"], first["n"].reindex(same.index))
    fewer = clean[clean["patients"] == "clean"].set_index(where)["n"]
    assert (fewer < same["n"]).all()


def test_files_of_another_encoder_are_refused(refused, inputs):
    said = refused("probe", embeddings=sorted((inputs / ENCODERS[1]).glob("*.parquet")))
    assert "a.parquet: made by byol-dro-s0, not by byol-base-s0" in said


def test_a_missing_site_is_refused_by_the_scans_it_lacks(refused, inputs):
    said = refused("probe", embeddings=[inputs / ENCODERS[0] / "a.parquet"])
    assert "22 patients of --folds have no embedding by byol-base-s0 (b-p000" in said


def test_a_file_given_twice_is_refused(refused, inputs):
    assert "is there twice" in refused("probe", embeddings=[inputs / ENCODERS[0] / "a.parquet"] * 2)


def test_values_that_are_not_finite_are_refused(refused, inputs, tmp_path):
    table = read_table(inputs / ENCODERS[0] / "a.parquet")
    table.loc[3, "e4"] = np.nan
    write_table(tmp_path / "broken.parquet", table)
    said = refused("probe", embeddings=[tmp_path / "broken.parquet", inputs / ENCODERS[0] / "b.parquet"])
    assert "NaN or infinite values in 1 scans (a-p003 of a)" in said


def test_labels_that_are_text_are_refused(refused, inputs, tmp_path):
    table = read_table(inputs / "a" / "patients.tsv")
    write_table(tmp_path / "patients.tsv", table.assign(mgmt="methylated"))
    said = refused("folds", patients=[tmp_path / "patients.tsv"], volumes=[inputs / "a" / "volumes.tsv"])
    assert "column mgmt of a holds the text 'methylated'" in said


def test_files_that_are_not_what_they_should_be_are_refused(refused, inputs, tmp_path):
    assert "no such file" in refused("probe", embeddings=[tmp_path / "none.parquet"])
    assert "lacks the columns session, status" in refused(
        "folds", patients=[inputs / "a" / "patients.tsv"], volumes=[inputs / "a" / "patients.tsv"]
    ).replace("scan, session", "session")
    assert "lacks the columns endpoint, protocol" in refused("probe", folds=inputs / "a" / "volumes.tsv")
    (tmp_path / "audit.json").write_text("{}")
    assert "has no `stamp`" in refused("probe", leakage=tmp_path / "audit.json")
    assert "made by the leakage audit" in refused("probe", leakage=tmp_path / "none.json")


def test_an_interval_from_a_handful_of_samples_is_refused(refused):
    assert "--bootstrap 19: needs at least 20 samples" in refused("probe", bootstrap=19)


def test_an_encoder_without_its_base_is_refused(refused, told):
    mine = told[0] / "probe" / "byol-dro-s0.predictions.parquet"
    said = refused("compare", predictions=[mine], found=[mine.with_name("byol-dro-s0.parquet")])
    assert "byol-dro-s0 has no rival" in said


def test_a_study_too_small_for_any_number_still_gets_its_tables(study, tmp_path):
    whole = study({"a": 4, "b": 4}, mgmt=np.arange(8) % 2, idh1=0, diagnosis="Glioblastoma", os_days=90, event=0)
    write_table(tmp_path / "patients.tsv", whole.labels)
    write_table(tmp_path / "volumes.tsv", whole.analysis.assign(session="s1", status="ok"))
    (tmp_path / "leakage.json").write_text(json.dumps({"stamp": STAMP}))
    folds, patients = tmp_path / "folds.parquet", ["--patients", str(tmp_path / "patients.tsv")]
    main(["folds", *patients, "--volumes", str(tmp_path / "volumes.tsv"), "--out", str(folds)])
    common = ["--folds", str(folds), "--leakage", str(tmp_path / "leakage.json"), "--bootstrap", "20"]
    predictions = []
    for encoder in ENCODERS:
        embeddings = tmp_path / f"{encoder}.parquet"
        write_table(embeddings, whole.table(np.random.default_rng(0).normal(size=(8, 6)), encoder))
        given = ["--encoder", encoder, "--embeddings", str(embeddings), *common]
        for verb, more, extra in (("probe", [], []), ("survival", patients, ["curves"]), ("invariance", patients, [])):
            names = ["coordinates"] if verb == "invariance" else ["predictions", "coefficients", *extra]
            files = {name: str(tmp_path / f"{verb}.{encoder}.{name}.parquet") for name in names}
            flags = [part for name, path in files.items() for part in (f"--{name}", path)]
            out = tmp_path / f"{verb}.{encoder}.parquet"
            main([verb, *given, *more, *flags, "--out", str(out)])
            table = read_table(out)
            missing = table[table["value"].isna()]
            assert len(missing) and missing["note"].str.contains("not estimable: ").all()
            predictions += [files["predictions"]] if "predictions" in files else []
    found = [path.replace(".predictions", "") for path in predictions]
    given = ["--predictions", *predictions, "--found", *found, *common]
    main(["compare", *given, "--out", str(tmp_path / "comparison.parquet")])
    assert read_table(tmp_path / "comparison.parquet").empty
    write_table(tmp_path / "test_patients.tsv", whole.analysis[["cohort", "patient"]].assign(status="clean"))
    judged = ["--test-patients", str(tmp_path / "test_patients.tsv"), *common[2:]]
    main(["clean", "--predictions", *predictions, *judged, "--out", str(tmp_path / "clean.parquet")])
    clean = read_table(tmp_path / "clean.parquet")
    assert clean.empty and "patients" in clean
