"""Every kind of bad input goes through the commands: a clear error or a row that says why, and n always adds up with the flow."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, write_table

SITES = {"a": 26, "b": 22, "c": 3}
N, ENCODER = sum(SITES.values()), "byol-base-s0"


@pytest.fixture(scope="module")
def run(study, tmp_path_factory) -> Callable[..., dict[str, pd.DataFrame]]:
    """`run(x, volumes=..., **columns)`: folds, probe, survival, invariance and reliability of a study; tables by verb."""

    def verbs(x: np.ndarray, volumes: Callable | None = None, **columns: object) -> dict[str, pd.DataFrame]:
        random = np.random.default_rng(1)
        usual = {"mgmt": random.integers(0, 2, N).astype(float), "idh1": 0, "diagnosis": "Glioblastoma"}
        usual |= {"os_days": random.integers(10, 900, N), "event": random.integers(0, 2, N)}
        whole = study(SITES, **{**usual, **columns})
        root = tmp_path_factory.mktemp("bad")
        scans = whole.analysis.assign(session="s1", status="ok")
        write_table(root / "volumes.tsv", volumes(scans) if volumes else scans)
        write_table(root / "patients.tsv", whole.labels)
        write_table(root / "x.parquet", whole.table(x, ENCODER))
        (root / "audit.json").write_text(json.dumps({"stamp": "x"}))

        def at(name: str) -> str:
            return str(root / name)

        patients = ["--patients", at("patients.tsv")]
        main(["folds", *patients, "--volumes", at("volumes.tsv"), "--out", at("folds.parquet"), "--counts", at("n.tsv")]
             + ["--folds", "3", "--repeats", "1"])  # fmt: skip
        common = ["--leakage", at("audit.json"), "--bootstrap", "20"]
        given = ["--encoder", ENCODER, "--embeddings", at("x.parquet"), "--folds", at("folds.parquet"), *common]
        for verb, more, others in (
            ("probe", [], ["predictions", "coefficients"]),
            ("survival", patients, ["predictions", "coefficients", "curves"]),
            ("invariance", patients, ["coordinates"]),
        ):
            flags = [part for name in others for part in (f"--{name}", at(f"{verb}.{name}.parquet"))]
            main([verb, *given, *more, *flags, "--out", at(f"{verb}.parquet")])
        scored = ["--predictions", at("probe.predictions.parquet")]
        main(["reliability", *scored, *patients, *common, "--out", at("reliability.parquet")])
        names = {p.stem.split(".")[0] if p.stem.count(".") == 0 else p.stem: p for p in Path(root).glob("*.parquet")}
        tables = {name: read_table(path) for name, path in names.items() if name != "x"}
        return {**tables, "counts": read_table(root / "n.tsv"), "labels": whole.labels}

    return verbs


def noise(d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, d))


def reconciled(made: dict[str, pd.DataFrame]) -> None:
    """Every n of probe and survival is the flow's: evaluated = unlisted + unlabelled + labelled, and inclusion adds up."""
    counts, probe, survival = made["counts"], made["probe"], made["survival"]
    assert (counts["evaluated"] == counts["unlisted"] + counts["unlabelled"] + counts["labelled"]).all()
    labelled = counts.set_index(["endpoint", "cohort"])[["labelled", "positive"]]
    for row in probe.itertuples():
        last = row.site.split("->")[-1]
        sites = list(SITES) if last == "all" else [last]
        n, positive = labelled.reindex([(row.endpoint, site) for site in sites]).fillna(0).sum()
        own = row.metric in ("auc_clinical", "auc_with_clinical", "auc_added", "added_value_test")
        assert own or (row.n, row.n_positive) == (n, positive), row
    inclusion = survival[survival["protocol"] == "inclusion"]
    evaluated = counts.drop_duplicates("cohort").set_index("cohort")["evaluated"]
    for (_, site), part in inclusion.groupby(["endpoint", "site"]):
        assert part["value"].sum() == evaluated[site] == part["n"].iloc[0]
    included = inclusion[inclusion["metric"] == "included"].set_index("site")["value"]
    for row in survival[(survival["endpoint"] == "os") & (survival["protocol"] != "inclusion")].itertuples():
        last = row.site.split("->")[-1]
        assert row.n == (included.sum() if last == "all" else included[last]), row


def nothing_silent(made: dict[str, pd.DataFrame]) -> None:
    """A number, or the reason why there is none."""
    for verb in ("probe", "survival", "invariance", "reliability"):
        missing = made[verb][made[verb]["value"].isna()]
        said = missing["note"].str.contains("not estimable|suppressed|undefined|p not estimable")
        assert said.all(), (verb, missing[~said][["endpoint", "protocol", "metric", "note"]])


def test_an_ordinary_study_and_its_site_of_three_patients(run):
    made = run(noise())
    reconciled(made)
    nothing_silent(made)
    probe = made["probe"]
    small = probe[(probe["site"] == "c") & (probe["endpoint"] == "mgmt")]
    assert small["value"].isna().all() and small["note"].str.contains(r"of 3 \(needs 5\)").all()
    assert probe[(probe["site"] == "all") & (probe["metric"] == "auc")]["value"].notna().any()
    site = made["invariance"]
    (found,) = site[(site["metric"] == "silhouette") & (site["protocol"] == "combined")].to_dict("records")
    assert found["note"] == "not estimable: a site has 3 patients (needs 5)"


@pytest.mark.parametrize("kind", ["constant", "some constant", "more features than patients"])
def test_odd_features_give_numbers_or_reasons(run, kind):
    x = {
        "constant": np.ones((N, 4)),
        "some constant": np.c_[noise(3), np.full((N, 2), 7.0)],
        "more features than patients": noise(3 * N),
    }[kind]
    made = run(x)
    reconciled(made)
    nothing_silent(made)
    auc = made["probe"].query("metric == 'auc' and site == 'all' and endpoint == 'mgmt'")["value"].item()
    assert auc == 0.5 if kind == "constant" else 0 < auc < 1
    if kind == "constant":
        c = made["survival"].query("metric == 'c_index' and site == 'a' and endpoint == 'os'")["value"].item()
        assert c == 0.5


def test_patients_without_labels_are_counted_and_not_dropped_in_silence(run):
    mgmt = np.where(np.arange(N) % 3 == 0, np.nan, np.arange(N) % 2)
    made = run(noise(), mgmt=mgmt)
    reconciled(made)
    counts = made["counts"].query("endpoint == 'mgmt'").set_index("cohort")
    assert counts["unlabelled"].sum() == np.isnan(mgmt).sum() > 10
    assert counts.loc["a", "unlabelled"] == np.isnan(mgmt[:26]).sum()


def test_one_class_only_is_not_estimable(run):
    made = run(noise(), mgmt=1.0)
    reconciled(made)
    rows = made["probe"].query("endpoint == 'mgmt'")
    assert (
        rows["value"].isna().all() and rows["note"].str.contains("not estimable: (?:0 negatives|3 positives) of").all()
    )


def test_everybody_censored_is_not_estimable(run):
    made = run(noise(), event=0)
    reconciled(made)
    nothing_silent(made)
    rows = made["survival"].query("endpoint == 'os' and protocol != 'inclusion'")
    assert rows["value"].isna().all() and rows["note"].str.contains(r"not estimable: 0 events of \d+").all()


@pytest.mark.parametrize("kind", ["ties", "time 0", "everybody on one day"])
def test_odd_times_give_numbers_or_reasons(run, kind):
    random = np.random.default_rng(2)
    days = {
        "ties": random.integers(1, 4, N) * 100,
        "time 0": np.where(random.random(N) < 0.3, 0, random.integers(1, 900, N)),
        "everybody on one day": np.full(N, 300),
    }[kind]
    made = run(noise(), os_days=days, event=(random.random(N) < 0.8).astype(float))
    reconciled(made)
    nothing_silent(made)
    c = made["survival"].query("metric == 'c_index' and site == 'a' and endpoint == 'os'").iloc[0]
    # Who is censored on the day of a death outlived it, so that pairs are left even when everybody has one day.
    assert 0 <= c["value"] <= 1


def test_a_patient_without_a_usable_volume_or_a_row_is_in_the_flow(run):
    made = run(noise(), volumes=lambda scans: scans.assign(status=np.where(np.arange(N) < 5, "excluded", "ok")))
    reconciled(made)
    assert made["counts"].set_index("cohort").loc["a", "evaluated"].unique().tolist() == [21]


def test_scans_twice_are_refused_and_nothing_is_written(run, capsys):
    with pytest.raises(SystemExit):
        run(noise(), volumes=lambda scans: pd.concat([scans, scans.head(1)]))
    assert "scan a-p000 of a is listed twice" in capsys.readouterr().err


def test_text_labels_wrong_codes_and_negative_times_are_refused_by_name(run, capsys):
    for column, value, said in (
        ("mgmt", "methylated", "column mgmt of a holds the text 'methylated'"),
        ("mgmt", 2.0, "column mgmt of a holds 2; must be 0, 1 or empty"),
        ("os_days", -4, "column os_days of a holds -4; must be finite and not negative"),
        ("progressed", 3, "column progressed of a holds 3; must be 0, 1 or empty"),
    ):
        with pytest.raises(SystemExit):
            run(noise(), **{column: value})
        assert said in capsys.readouterr().err


def test_features_that_are_not_finite_are_refused_with_the_scan(run, capsys):
    x = noise()
    x[2, 1] = np.nan
    with pytest.raises(SystemExit):
        run(x)
    assert "NaN or infinite values in 1 scans (a-p002 of a)" in capsys.readouterr().err
