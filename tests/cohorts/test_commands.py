"""The verbs `labels` and `audit`, from tables to files."""

import json

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.cohorts.labels import EXAM_COLUMNS, PATIENT_COLUMNS
from neurorad.files import read_table, sha256


def ucsf(**changes):
    row = {"ID": "UCSF-PDGM-004", "Sex": "M", "Age at MRI": "66", "WHO CNS Grade": "4", "MGMT status": "negative"}
    row |= {"Final pathologic diagnosis (WHO 2021)": "Glioblastoma, IDH-wildtype", "1p/19q": "unknown"}
    row |= {"IDH": "wildtype", "1-dead 0-alive": "1", "OS": "1303", "EOR": "STR", "BraTS21 ID": "BraTS2021_00097"}
    return row | changes


def write(path, *rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def test_the_verb_prints_exams_and_writes_patients(tmp_path, capsys):
    rows = ucsf(), ucsf(ID="UCSF-PDGM-0433_FU007d", OS="205"), ucsf(ID="UCSF-PDGM-433", OS="205")
    source = write(tmp_path / "ucsf.csv", *rows)
    main(["labels", "--release", "ucsf-pdgm", "--table", source])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t") == list(EXAM_COLUMNS)
    first = dict(zip(EXAM_COLUMNS, lines[0].split("\t"), strict=True))
    assert (first["scan"], first["mgmt"], first["1p19q"], first["os_days"]) == ("UCSF-PDGM-0004", "0", "", "1303")
    assert [line.split("\t")[1] for line in lines[1:]] == ["UCSF-PDGM-0433_FU007d", "UCSF-PDGM-0433"]
    scans = write(tmp_path / "scans.csv", {"patient": "UCSF-PDGM-0433"}, {"patient": "UCSF-PDGM-0999"})
    out = {flag: tmp_path / f"{flag}.tsv" for flag in ("out", "aliases", "problems", "decided")}
    files = [item for flag, path in out.items() for item in (f"--{flag}", str(path))]
    files += ["--dictionary", str(tmp_path / "patients.json")]
    asked = ["--decisions", '{"mgmt_indeterminate": "negative"}']
    main(["labels", "--release", "ucsf-pdgm", "--table", source, "--cohort", "ucsf", "--scans", scans, *files, *asked])
    patients = pd.read_csv(out["out"], sep="\t")
    assert patients["patient"].tolist() == ["UCSF-PDGM-0004", "UCSF-PDGM-0433", "UCSF-PDGM-0999"]
    assert patients["cohort"].eq("ucsf").all()
    assert patients["os_days"].fillna(-1).tolist() == [1303, 205, -1]
    decided = pd.read_csv(out["decided"], sep="\t")
    assert decided[["decision", "choice", "exams"]].to_numpy().tolist() == [
        ["mgmt_indeterminate", "negative", 0],
        ["relative_codeletion", "missing", 0],
    ]
    described = json.loads((tmp_path / "patients.json").read_text())
    assert set(described) <= set(PATIENT_COLUMNS)
    assert described["mgmt"]["Levels"]["indeterminate"] == "mgmt_indeterminate: negative"


def test_the_verb_stops_at_a_problem_or_leaves_the_patient_out(tmp_path, capsys):
    source = write(tmp_path / "ucsf.csv", ucsf(), ucsf(ID="UCSF-PDGM-005", IDH="wildtyp"))
    out, left_out = tmp_path / "patients.tsv", tmp_path / "problems.tsv"
    call = ["labels", "--release", "ucsf-pdgm", "--table", source, "--problems", str(left_out), "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main(call)
    assert stopped.value.code == 2
    assert not out.exists()
    assert "ucsf.csv: row 3, column 'IDH': 'wildtyp' is unknown; did you mean 'wildtype'?" in capsys.readouterr().err
    main([*call, "--unknown", "quarantine"])
    assert pd.read_csv(out, sep="\t")["patient"].tolist() == ["UCSF-PDGM-0004"]
    assert pd.read_csv(left_out, sep="\t")["patient"].tolist() == ["UCSF-PDGM-0005"]
    with pytest.raises(SystemExit):
        main(call[:5])
    printed = capsys.readouterr()
    assert "UCSF-PDGM-0004" in printed.out
    assert "UCSF-PDGM-0005" not in printed.out
    assert "did you mean 'wildtype'?" in printed.err


@pytest.mark.parametrize(("release", "told"), [("generic", 1), ("cuimc", 1), ("ucsf-pdgm", 0)])
def test_a_run_names_the_columns_of_a_table_of_ones_own_that_it_does_not_read(tmp_path, capsys, release, told):
    rows = {"patient": "DOE JANE", "age": "50", "molecular_idh": "mutant"} if told else ucsf()
    call = ["labels", "--release", release, "--cohort", "mine", "--table", write(tmp_path / "t.csv", rows)]
    for more in ([], ["--out", str(tmp_path / "patients.tsv")]):
        main([*call, *more])
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["mine: columns read: patient, age; not read: molecular_idh"] * told


def test_a_time_without_an_event_stops_the_run_with_the_file_named(tmp_path, capsys):
    source = write(tmp_path / "t.csv", {"patient": "A", "os_days": "400"})
    with pytest.raises(SystemExit) as left:
        main(["labels", "--release", "generic", "--cohort", "mine", "--table", source])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert f"cohort mine: label table {source} has a column 'os_days' and none 'event'" in error
    assert error.count("\n") == 1


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """Runs the verb on three men scans of two patients and one test scan, and reads what it wrote."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [("men", "BraTS-MEN-00001", "a", "000"), ("men", "BraTS-MEN-00001", "b", "001")]
    rows += [("men", "BraTS-MEN-00002", "c", "000"), ("cuimc", "007", "d", "")]
    table = pd.DataFrame(rows, columns=["cohort", "patient", "scan", "session"])
    table = table.assign(volume=table["scan"] + ".b2nd", sha256=table["scan"], status="ok")
    table.to_csv("volumes.tsv", sep="\t", index=False)
    for scan in table["scan"]:
        np.save(f"{scan}.thumbnail.npy", random.normal(0, 1, (4, 6, 6, 6)).astype(np.float16))
    patients = [("men", "BraTS-MEN-00001", "1.5"), ("men", "BraTS-MEN-00002", "3")]
    pd.DataFrame(patients, columns=["cohort", "patient", "field_strength"]).to_csv("p.tsv", sep="\t", index=False)
    (tmp_path / "aliases.tsv").write_text("cohort\tpatient\talias\n")
    cohorts = {
        "men": {"release": "brats-men", "role": ["pretrain"], "disease": "MEN"},
        "cuimc": {"release": "cuimc", "role": ["test"], "disease": "GLI"},
    }

    def run(*flags):
        main(
            ["audit", "--cohorts", json.dumps(cohorts), "--volumes", "volumes.tsv", "--aliases", "aliases.tsv"]
            + ["--manifest", "m.tsv", "--removed", "r.tsv", "--test-patients", "t.tsv", "--report", "a.json", *flags]
        )
        return read_table("m.tsv"), read_table("r.tsv"), json.loads((tmp_path / "a.json").read_text())

    return run


def test_the_audit_groups_by_a_column_joins_tiny_groups_and_caps_time_points(audit):
    manifest, removed, report = audit("--groups", "column:field_strength", "--tables", "p.tsv", "--min-patients", "1")
    assert manifest["scan"].tolist() == ["a", "b", "c"]
    assert manifest["group"].tolist() == [1.5, 1.5, 3]
    assert removed.empty
    assert report["groups"] == {"by": "column:field_strength", "patients": {"1.5": 1, "3": 1}, "merged": {}}
    assert read_table("t.tsv")["status"].tolist() == ["clean"]
    manifest, removed, report = audit(
        *("--groups", "column:field_strength", "--tables", "p.tsv", "--min-patients", "2", "--max-scans", "1")
    )
    assert manifest["scan"].tolist() == ["a", "c"]
    assert set(manifest["group"]) == {"other MEN"}
    assert removed[["scan", "stage"]].to_numpy().tolist() == [["b", "repeats"]]
    assert report["scans"]["later_time_points"] == 1


def test_the_audit_says_which_encoders_will_be_trained_again_before_they_are(audit, tmp_path, capsys):
    def finished(name, manifest):
        (tmp_path / "encoders" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "encoders" / name / "card.json").write_text(json.dumps({"manifest_sha256": manifest}))

    grouped = ("--min-patients", "1", "--encoders", "encoders")
    audit(*grouped)
    assert "trained again" not in capsys.readouterr().err
    finished("byol-base-s0", sha256(tmp_path / "m.tsv"))
    audit(*grouped)
    assert "trained again" not in capsys.readouterr().err
    # A test patient who is in pretraining too.
    table = read_table("volumes.tsv")
    table.loc[table["scan"] == "d", "sha256"] = "c"
    table.to_csv("volumes.tsv", sep="\t", index=False)
    _, removed, _ = audit(*grouped)
    assert removed["scan"].tolist() == ["c"]
    assert "1 finished encoders (byol-base-s0) will be trained again" in capsys.readouterr().err


def test_the_audit_refuses_a_volume_without_a_thumbnail_or_of_another_grid(audit, tmp_path, capsys):
    np.save("c.thumbnail.npy", np.zeros((4, 5, 6, 6), np.float16))
    with pytest.raises(SystemExit):
        audit()
    assert "c.b2nd: made with other imaging settings than a.b2nd" in capsys.readouterr().err
    (tmp_path / "c.thumbnail.npy").unlink()
    with pytest.raises(SystemExit):
        audit()
    assert "c.thumbnail.npy: no thumbnail of the volume" in capsys.readouterr().err
    assert not (tmp_path / "m.tsv").exists()
