"""Whole small studies through Snakemake: planted faults are reported, numbers are traced, real scans take the same way."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml

from neurorad.cli import main
from neurorad.cohorts.identity import ALIKE
from neurorad.reporting.registry import FIGURES
from tests.provenance.crates import complaints
from tests.workflow.small_study import STUDY, digests, finish, new_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_second_run_has_nothing_to_do(study):
    assert "Nothing to be done" in finish(study)


def test_the_planted_double_is_found_by_its_looks_when_no_id_links_it(study, tmp_path):
    results = study / "results"
    nothing = tmp_path / "aliases.tsv"
    nothing.write_text("cohort\tpatient\talias\n")
    cohorts = {
        name: {"release": block["release"], "role": block["role"], "disease": "GLI"}
        for name, block in STUDY["cohorts"].items()
    }
    indices = [str(path.relative_to(study)) for path in sorted(results.glob("volumes/*/volumes.tsv"))]
    here = Path.cwd()
    os.chdir(study)
    try:
        main(
            ["audit", "--cohorts", json.dumps(cohorts), "--volumes", *indices, "--aliases", str(nothing)]
            + ["--manifest", str(tmp_path / "manifest.tsv"), "--removed", str(tmp_path / "removed.tsv")]
            + ["--test-patients", str(tmp_path / "patients.tsv"), "--report", str(tmp_path / "audit.json")]
        )
    finally:
        os.chdir(here)
    faults = json.loads((results / "phantom" / "truth.json").read_text())["faults"]
    (double,) = (fault for fault in faults if fault["kind"] == "double patient")
    removed = pd.read_csv(tmp_path / "removed.tsv", sep="\t", dtype=str)
    assert removed["patient"].tolist() == [double["patient"]]
    assert removed["reason"].item().startswith(f"looks the same as ucsf-pdgm {double['twin_patient']} (correlation ")
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["stamp"].startswith("LEAKAGE NOT EXCLUDED")
    assert report["likeness"]["pairs"][0]["likeness"] >= ALIKE
    assert [pair["likeness"] for pair in report["likeness"]["pairs"][1:]] == []
    assert (pd.read_csv(tmp_path / "patients.tsv", sep="\t")["status"] == "unproven").sum() > 0


def test_every_planted_fault_is_reported_where_it_belongs(study):
    results = study / "results"
    planted = json.loads((results / "phantom" / "truth.json").read_text())["faults"]
    planted = [fault for fault in planted if fault["cohort"] in STUDY["cohorts"]]
    kinds = {fault["kind"] for fault in planted}
    assert {"missing sequence", "truncated file", "label typo", "double patient"} <= kinds
    listed = pd.concat(
        [pd.read_csv(path, sep="\t", dtype=str) for path in sorted(results.glob("cohorts/*/excluded.tsv"))]
    )
    manifest = pd.read_csv(results / "cohorts" / "pretraining_manifest.tsv", sep="\t", dtype=str)
    for fault in planted:
        if fault["kind"] == "longitudinal patient":
            continue
        rows = listed[(listed["cohort"] == fault["cohort"]) & (listed["stage"] == fault["stage"])]
        assert rows["reason"].str.contains(fault["keyword"]).any(), fault
        assert not (set(rows["scan"]) & set(manifest["scan"]))
    assert len(listed) == sum(fault["kind"] != "longitudinal patient" for fault in planted), listed


def test_the_names_of_a_hospital_are_in_no_other_file_than_the_lists_of_its_own_files(study):
    results = study / "results"
    names = {path.name.encode() for path in (results / "phantom" / "cuimc").iterdir() if path.is_dir()}
    assert len(names) > 2
    holding = {
        str(path.relative_to(results))
        for path in results.rglob("*")
        if path.is_file() and "phantom" not in path.parts and any(name in path.read_bytes() for name in names)
    }
    assert holding <= {"cohorts/cuimc/scans.tsv", "cohorts/cuimc/unknown_files.txt"}
    crate = (results / "provenance" / "ro-crate-metadata.json").read_text()
    assert "unknown_files" not in crate and "scans.tsv" in crate


def test_each_map_is_also_a_file_on_the_grid_of_the_scan_as_it_came(study):
    """A scan's grid is that of its t1c as the phantom wrote it; of DICOM, that of the slices' headers."""
    results = study / "results"
    listed = pd.concat([pd.read_csv(path, sep="\t", dtype=str) for path in results.glob("cohorts/*/scans.tsv")])
    listed = listed.set_index("scan").fillna("")
    shown = {"nifti": 0, "dicom": 0}
    for folder in sorted(results.glob("explanation/*/*")):
        drawn = np.load(folder / "maps.npz")["scan"].tolist()
        # Snakemake leaves a time stamp of its own in a folder that is an output.
        native = {path.name: path for path in (folder / "native").glob("*.nii.gz")}
        assert set(native) == {f"{scan}.{kind}.nii.gz" for scan in drawn for kind in ("evidence", "against")}
        for name, path in native.items():
            scan = listed.loc[name.split(".")[0]]
            found = nib.load(path)
            assert np.isfinite(found.get_fdata()).all()
            if scan["t1c"]:
                scanned = nib.load(study / scan["t1c"])
                assert found.shape == scanned.shape and np.allclose(found.affine, scanned.affine, atol=1e-4)
                shown["nifti"] += 1
            else:
                shown["dicom"] += 1
                slices = [
                    pydicom.dcmread(path) for path in sorted((study / scan["dicom"]).rglob("*")) if path.is_file()
                ]
                assert any(_is_grid_of(found, series) for series in _by_series(slices))
    assert min(shown.values()) > 0, shown


def _by_series(slices: list) -> list[list]:
    series: dict[str, list] = {}
    for one in slices:
        series.setdefault(one.SeriesInstanceUID, []).append(one)
    return list(series.values())


def _is_grid_of(image: nib.Nifti1Image, series: list) -> bool:
    """Whether a series' slices, by their own headers, have as many voxels and the same corners in RAS mm."""
    first = series[0]
    if sorted(image.shape) != sorted((first.Rows, first.Columns, len(series))):
        return False
    across = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    steps = [(first.Columns - 1) * float(first.PixelSpacing[1]), (first.Rows - 1) * float(first.PixelSpacing[0])]
    ends = [
        np.array(one.ImagePositionPatient, float) + x * steps[0] * across[0] + y * steps[1] * across[1]
        for one in series
        for x in (0, 1)
        for y in (0, 1)
    ]
    lps = np.array(ends) * [-1, -1, 1]
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape) - 1)
    placed = corners @ image.affine[:3, :3].T + image.affine[:3, 3]
    return bool(
        np.allclose(lps.min(axis=0), placed.min(axis=0), atol=0.1)
        and np.allclose(lps.max(axis=0), placed.max(axis=0), atol=0.1)
    )


def test_the_report_needs_no_network_and_says_what_could_not_be_estimated(study):
    page = (study / "results" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    assert (
        page.count("data:image/svg+xml")
        == len(list((study / "results" / "figures").glob("*.svg")))
        # The stress tests are off, so their figure is not drawn; each encoder has a page of its training.
        == len(FIGURES) - 1 + len(list((study / "results" / "encoders").iterdir()))
    )
    assert "not estimable" in page


def test_the_crate_lists_the_study_and_verify_finds_a_changed_table(study, capsys):
    crate = study / "results" / "provenance" / "ro-crate-metadata.json"
    main(["verify", str(crate)])
    assert ", 0 missing or changed" in capsys.readouterr().out
    table = study / "results" / "tables" / "probe.csv"
    kept = table.read_bytes()
    stamp = table.stat()
    try:
        table.write_bytes(kept + b"\n")
        with pytest.raises(SystemExit) as left:
            main(["verify", str(crate)])
    finally:
        table.write_bytes(kept)
        os.utime(table, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert left.value.code == 1
    assert "changed  ../tables/probe.csv" in capsys.readouterr().out


def test_every_listed_file_is_in_the_manifest_with_what_made_it(study):
    provenance = study / "results" / "provenance"
    graph = json.loads((provenance / "ro-crate-metadata.json").read_text())["@graph"]
    listed = {os.path.normpath(provenance / unquote(part["@id"])) for part in graph if "File" in part["@type"]}
    made = json.loads((provenance / "manifest.json").read_text())["made"]
    # Written by the job that makes the crate, or by the one that makes the manifest.
    alone = {"manifest.json", "Snakefile", "workflow.zip", "dag.dot", "environment.tsv"}
    assert {os.path.relpath(path, study) for path in listed} - set(made) == {f"results/provenance/{n}" for n in alone}
    for path, entry in made.items():
        if (study / path).is_file():
            assert entry["sha256"] == hashlib.sha256((study / path).read_bytes()).hexdigest(), path
        # The one job without a command of its own writes down the settings.
        if entry["rule"] != "config":
            held = {key: entry[key] for key in ("code", "settings", "packages", "device", "started", "ended", "inputs")}
            assert "not recorded" not in held.values() and None not in held.values(), (path, held)


def test_the_validator_of_its_makers_accepts_the_crate_of_the_study(study, tmp_path):
    assert complaints(study, tmp_path) == []


def test_every_table_says_which_plan_it_was_made_under(study):
    tables = {path.stem: pd.read_csv(path) for path in sorted((study / "results" / "tables").glob("*.csv"))}
    # Nothing departed from no plan, and a calibration needs more patients than this study has.
    assert {name for name, table in tables.items() if table.empty} <= {"deviations", "reliability"}
    assert {plan for table in tables.values() for plan in table["plan"]} == {"plan not locked"}


def test_a_number_is_traced_to_the_raw_scans_it_was_counted_on(study, capsys):
    """The c-index over both sites: one has a file a sequence, the other DICOM."""
    table = pd.read_csv(study / "results" / "tables" / "survival.csv")
    (place,) = table.index[
        table["encoder"].eq("byol-dro-s0") & table["protocol"].eq("combined") & table["metric"].eq("c_index")
    ]
    main(["trace", "results/tables/survival.csv", "--row", str(place + 1), "--directory", str(study)])
    told = capsys.readouterr().out
    assert "CHANGED" not in told and "MISSING" not in told
    assert "encoders/byol-dro-s0/card.json  by pretrain, " in told
    count, ends = re.search(r"^(\d+) scans, scored in .*\n((?: .*\n)+)", told, re.MULTILINE).groups()
    assert int(count) == table.loc[place, "n"] == ends.count(".b2nd")
    raw = re.findall(r"^    ([^,]+), sha256", ends, re.MULTILINE)
    assert len(raw) == len(set(raw)) and all((study / path).exists() for path in raw)
    folders = [path for path in raw if path.startswith("results/phantom/cuimc/")]
    files = [path for path in raw if path.startswith("results/phantom/ucsf-pdgm/")]
    # Four sequences and the mask.
    assert folders and files and len(folders) + len(files) / 5 == int(count)


def test_no_identity_of_the_private_cohort_leaves_its_folder(study):
    results = study / "results"
    names = [path.name for path in (results / "phantom" / "cuimc").iterdir() if path.is_dir()]
    assert names
    for path in results.rglob("*"):
        if path.is_file() and not path.is_relative_to(results / "phantom"):
            text = str(path.relative_to(results)).encode() + path.read_bytes()
            if path.name == "scans.tsv":  # the one table that must know the folders
                continue
            assert not any(name.encode() in text for name in names), path


def test_no_output_tells_who_the_patients_are(study, capsys):
    main(["phi-audit", str(study / "results")])
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 findings")


def test_a_verdict_runs_again_only_what_depends_on_it(study, tmp_path):
    folder = tmp_path / "judged"
    shutil.copytree(study, folder, symlinks=True)
    results = folder / "results"
    volumes = pd.read_csv(results / "volumes" / "ucsf-pdgm" / "volumes.tsv", sep="\t", dtype=str)
    first, second = volumes.loc[volumes["status"] == "ok", "scan"].head(2)
    kept = digests(folder, "encoders/*/*", "embeddings/*/cuimc.parquet", "volumes/*/*.b2nd")
    table = folder / "verdicts.tsv"
    config = yaml.safe_load((folder / "study.yaml").read_text())
    config["cohorts"]["ucsf-pdgm"]["verdicts"] = "verdicts.tsv"
    (folder / "study.yaml").write_text(yaml.safe_dump(config))
    header = "scan\tverdict\tcomment\twho\twhen\n"
    table.write_text(header + f"{first}\tpass\tfine\tAB\t2026-01-02\n")
    # The page, and what shows or lists the config.
    assert rules(finish(folder)) == {"qc", "config", "documents", "report", "manifest", "crate", "all"}
    table.write_text(header + f"{first}\tpass\tfine\tAB\t2026-01-02\n{second}\tfail\tcut\tAB\t2026-01-02\n")
    again = rules(finish(folder))
    assert {"volumes_index", "qc", "audit", "embed", "folds", "probe", "excluded", "figure_fig1_flow"} <= again
    assert not again & {"phantom", "inventory", "volumes", "labels", "pretrain"}
    left = pd.read_csv(results / "cohorts" / "ucsf-pdgm" / "excluded.tsv", sep="\t", dtype=str).set_index("scan")
    assert left.loc[second, ["stage", "reason"]].tolist() == ["qc", "failed by eye: cut"]
    folds = pd.read_parquet(results / "evaluation" / "folds.parquet")
    assert second not in set(folds["scan"]) and first in set(folds["scan"])
    for encoder in ("byol-base-s0", "random-s0"):
        embedded = pd.read_parquet(results / "embeddings" / encoder / "ucsf-pdgm.parquet")
        assert second not in set(embedded["scan"]) and first in set(embedded["scan"])
    assert digests(folder, "encoders/*/*", "embeddings/*/cuimc.parquet", "volumes/*/*.b2nd") == kept
    assert digests(folder, "figures/fig1_flow.svg") != digests(study, "figures/fig1_flow.svg")
    assert "Nothing to be done" in finish(folder)


def rules(log: str) -> set[str]:
    return set(re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", log, re.MULTILINE))


def test_real_scans_take_the_same_way(study, tmp_path, shared):
    config = {
        "cohorts": {
            "brats": {"release": "brats-gli-pre", "role": ["test"], "images": str(shared / "brats2021")},
            "raw": {
                "release": "generic",
                "role": ["test"],
                "images": str(shared / "raw"),
                "pattern": "{patient}/*_{sequence}.nii.gz",
                "sequences": {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"},
                "state": "skull",
            },
        },
        "imaging": STUDY["imaging"],
        "pretraining": {**STUDY["pretraining"], "freeze": str(study / "results" / "encoders")},
        "evaluation": STUDY["evaluation"],
    }
    folder = new_study(tmp_path / "real", config)
    finish(folder)
    for cohort, patients in (("brats", 6), ("raw", 1)):
        volumes = pd.read_csv(folder / "results" / "volumes" / cohort / "volumes.tsv", sep="\t")
        assert volumes["status"].tolist() == ["ok"] * patients, volumes["reason"].tolist()
        assert volumes["brain_ml"].between(900, 1800).all()
        assert (volumes["atlas_dice"] > 0.85).all()
        page = (folder / "results" / "volumes" / cohort / "qc.html").read_text(encoding="utf-8")
        assert page.count('<script type="text/plain"') == patients
        for encoder in ("byol-base-s0", "byol-dro-s0", "random-s0"):
            embeddings = pd.read_parquet(folder / "results" / "embeddings" / encoder / f"{cohort}.parquet")
            assert len(embeddings) == patients
            features = embeddings.filter(regex=r"^e\d+$")
            assert features.notna().all(axis=None)
            assert len(features.drop_duplicates()) == patients
            # Features end in a ReLU, so a few may be 0 for everybody.
            assert patients == 1 or features.std().gt(0).mean() > 0.5
    audit = json.loads((folder / "results" / "cohorts" / "leakage_audit.json").read_text())
    assert audit["stamp"].startswith("LEAKAGE NOT EXCLUDED: the finished encoders were pretrained outside")
    page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert "LEAKAGE NOT EXCLUDED" in page
    assert "nothing to draw" in page.lower()
