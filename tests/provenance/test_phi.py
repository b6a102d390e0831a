"""Identity planted in every place a file can hold it is found; a clean study is not accused."""

import base64
import gzip
import io
import json
import zipfile

import blosc2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from safetensors.numpy import save_file

from neurorad.cli import main
from neurorad.files import write_table
from neurorad.provenance.crate import CHECKOUT
from neurorad.provenance.phi import Sources, audit, read_sources

PATIENT, SESSION = "MEIER_Erika_0815", "visit-19"


def nifti(path, **header):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def dicom(path):
    path.parent.mkdir(parents=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.PatientName, data.PatientID, data.SeriesDescription = "Huber^Anna", "K77123", "t1_mprage_post Dr Wolf"
    data.StudyDate = "20190314"
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def results(tmp_path):
    """A small study: a public cohort, and a private one of NIfTI and of DICOM."""
    folder, hospital = tmp_path / "results", tmp_path / "hospital"
    nifti(hospital / PATIENT / SESSION / "t1c.nii.gz", descrip=b"TE=17;Time=232636.435")
    dicom(hospital / "P4711" / "s1" / "series" / "IM1.dcm")
    nifti(tmp_path / "public" / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1c.nii.gz")
    private = [
        {
            "cohort": "h",
            "scan": "h-ab12",
            "patient": "ab12",
            "t1c": "hospital/" + f"{PATIENT}/{SESSION}/t1c.nii.gz",
            "dicom": "",
        },
        {"cohort": "h", "scan": "h-cd34", "patient": "cd34", "t1c": "", "dicom": "hospital/P4711/s1"},
    ]
    name = "BraTS-GLI-00001-000"
    public = [
        {
            "cohort": "b",
            "scan": name,
            "patient": "BraTS-GLI-00001",
            "t1c": f"public/{name}/{name}-t1c.nii.gz",
            "dicom": "",
        }
    ]
    for cohort, rows in (("h", private), ("b", public)):
        write_table(folder / "cohorts" / cohort / "scans.tsv", pd.DataFrame(rows))
    write_table(
        folder / "volumes" / "h" / "volumes.tsv", pd.DataFrame({"scan": ["h-ab12"], "reason": ["t1n: 3 of 4 slices"]})
    )
    (folder / "report.html").write_text("<p>Version 1.0.20260724, seed 12, 2,021 scans, sha 20190314abcdef, t1c</p>")
    return folder


def findings(results) -> list[tuple[str, str]]:
    return [(finding.path, finding.what) for finding in audit(results, read_sources(results))[1]]


def test_a_clean_study_has_no_findings_and_the_verb_says_which_tables_know_folders(results, capsys):
    assert findings(results) == []
    main(["phi-audit", str(results)])
    said = capsys.readouterr().out
    assert "cohorts/h/scans.tsv  knows the folders of a private cohort" in said
    assert "cohorts/b/scans.tsv" not in said
    assert "4 files" not in said.splitlines()[0] and said.splitlines()[-1].endswith("0 findings")


def test_input_below_the_results_is_not_looked_into(results):
    phantom = results / "phantom" / "x"
    nifti(phantom / "t1c.nii.gz", descrip=b"2020-01-01")
    rows = pd.DataFrame(
        [{"cohort": "p", "scan": "x", "patient": "x", "t1c": "results/phantom/x/t1c.nii.gz", "dicom": ""}]
    )
    write_table(results / "cohorts" / "p" / "scans.tsv", rows)
    assert findings(results) == []


def text_chunk(kind: str) -> bytes:
    stream, chunks = io.BytesIO(), PngImagePlugin.PngInfo()
    if kind == "iTXt":
        chunks.add_itxt("Comment", f"of {PATIENT}", zip=True)
    else:
        chunks.add_text("Comment", f"of {PATIENT}", zip=kind == "zTXt")
    Image.new("L", (4, 4)).save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def picture(**options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, **options)
    return stream.getvalue()


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = "a description"
    return made


NAME = "the name of a folder or file of the private cohort h"
TEXTS = {
    "log with a folder": ("logs/x.log", f"reading /data/{PATIENT}/t1.nii", f"line 1: {NAME}"),
    "name in another case and spelling": ("a.tsv", "x\nmeier erika-0815", f"line 2: {NAME}"),
    "session folder": ("a.csv", f"a\n{SESSION}", f"line 2: {NAME}"),
    "name in svg": ("f.svg", f"<svg><title>{PATIENT}</title></svg>", NAME),
    "name in json": ("c.json", json.dumps({"of": PATIENT}), NAME),
    "date": ("a.json", '{"scanned": "2019-03-14"}', "a date"),
    "german date": ("a.html", "<p>14.3.2019</p>", "a date"),
    "dicom date": ("a.log", "study 20190315 done", "a date"),
    "uid": ("a.log", "1.2.840.113619.2.55.3.604688", "a DICOM UID"),
    "uid of the 2.25 root": ("a.log", "2.25.303030303030303030", "a DICOM UID"),
    "sidecar": ("a.json", '{"InstitutionName": "Charite"}', "the header field InstitutionName"),
    "dicom name": ("a.log", "for Anna Huber", "the patient's name in the DICOM headers of h"),
    "dicom id": ("a.log", "k77123", "the patient's id in the DICOM headers of h"),
    "series": ("a.log", "took t1_mprage_post Dr Wolf", "a series' description in the DICOM headers of h"),
    "study date as written": ("a.log", "x_20190314", "the day of the study in the DICOM headers of h"),
    "descrip": ("a.json", '{"note": "TE=17;Time=232636.435"}', "the description in the header of a source image of h"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_identity_planted_in_text_is_found_with_its_line(results, kind):
    name, text, said = TEXTS[kind]
    (results / name).parent.mkdir(exist_ok=True)
    (results / name).write_text(text)
    found = findings(results)
    assert {path for path, _ in found} == {name}
    assert any(said in what for _, what in found), found


def planted_nifti(folder, **header):
    nifti(folder / "x.nii.gz", **header)
    return folder / "x.nii.gz"


def extension(folder):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment"))
    nib.save(image, folder / "x.nii")


def named_gzip(folder):
    nifti(folder / "x.nii")
    with open(folder / "y.nii.gz", "wb") as raw, gzip.GzipFile("Meier.nii", "wb", fileobj=raw, mtime=0) as packed:
        packed.write((folder / "x.nii").read_bytes())


def timed_gzip(folder):
    nifti(folder / "x.nii")
    (folder / "y.nii.gz").write_bytes(gzip.compress((folder / "x.nii").read_bytes(), mtime=1_500_000_000))


def volume(folder):
    stored = blosc2.asarray(np.zeros((4, 4), np.float16), urlpath=str(folder / "x.b2nd"))
    stored.schunk.vlmeta["from"] = PATIENT


def embedded(folder, content: bytes, kind: str):
    (folder / "x.html").write_text(f'<img src="data:image/{kind};base64,{base64.b64encode(content).decode()}">')


BINARY = {
    "descrip": (lambda f: planted_nifti(f, descrip=b"scan"), "`descrip` of a NIfTI header"),
    "aux_file": (lambda f: planted_nifti(f, aux_file=b"x"), "`aux_file` of a NIfTI header"),
    "db_name": (lambda f: planted_nifti(f, db_name=b"x"), "`db_name` of a NIfTI header"),
    "intent_name": (lambda f: planted_nifti(f, intent_name=b"x"), "`intent_name` of a NIfTI header"),
    "extension": (extension, "an extension behind a NIfTI header"),
    "gzip name": (named_gzip, "the original's name in the gzip header"),
    "gzip time": (timed_gzip, "the original's time in the gzip header"),
    "tEXt": (lambda f: (f / "x.png").write_bytes(text_chunk("tEXt")), NAME),
    "zTXt": (lambda f: (f / "x.png").write_bytes(text_chunk("zTXt")), NAME),
    "iTXt": (lambda f: (f / "x.png").write_bytes(text_chunk("iTXt")), NAME),
    "png exif": (lambda f: (f / "x.png").write_bytes(picture(format="PNG", exif=exif())), "EXIF in a PNG"),
    "behind a png": (lambda f: (f / "x.png").write_bytes(picture(format="PNG") + b"Meier"), "bytes behind the end"),
    "webp exif": (lambda f: (f / "x.webp").write_bytes(picture(format="WEBP", exif=exif())), "EXIF in a WebP"),
    "jpeg comment": (lambda f: (f / "x.jpg").write_bytes(picture(format="JPEG", comment=b"M")), "comment in a JPEG"),
    "png inside html": (lambda f: embedded(f, text_chunk("tEXt") + bytes(200), "png"), NAME),
    "parquet words": (
        lambda f: write_table(f / "x.parquet", pd.DataFrame({"a": [PATIENT]})),
        f"column a: line 1: {NAME}",
    ),
    "parquet dates": (
        lambda f: write_table(f / "x.parquet", pd.DataFrame({"a": pd.to_datetime(["2020-01-02"])})),
        "a column of dates",
    ),
    "safetensors": (lambda f: save_file({"a": np.zeros(2)}, f / "x.safetensors", {"by": PATIENT}), NAME),
    "blosc2": (volume, NAME),
    "tensorboard": (
        lambda f: (f / "events.out.tfevents.1.host").write_bytes(b"\x09\xff\x80\x00" + PATIENT.encode() + b"\x00"),
        NAME,
    ),
    "npz": (lambda f: np.savez(f / "x.npz", scan=np.array([PATIENT])), NAME),
    "npy": (lambda f: np.save(f / "x.npy", np.array(["2020-01-02"])), "a date"),
    "dicom": (lambda f: dicom(f / "d" / "x.dcm"), "a DICOM file"),
    "file name": (lambda f: (f / f"{PATIENT}.json").write_text("{}"), NAME),
    "unknown format": (lambda f: (f / "x.mat").write_bytes(b"MATLAB"), "a format that the audit does not read"),
    "no text": (lambda f: (f / "x.log").write_bytes(b"\xff\xfe\xfa"), "no UTF-8 text"),
    "damaged": (lambda f: (f / "x.parquet").write_bytes(b"PAR1"), "cannot be read"),
    "link": (lambda f: (f / "x.json").symlink_to("/etc/hostname"), "a link"),
}


@pytest.mark.parametrize("kind", BINARY)
def test_identity_planted_in_a_format_is_found(results, kind, capsys):
    plant, said = BINARY[kind]
    folder = results / "made"
    folder.mkdir()
    plant(folder)
    found = findings(results)
    assert any(path.startswith("made/") and said in what for path, what in found), found
    with pytest.raises(SystemExit) as left:
        main(["phi-audit", str(results)])
    assert left.value.code == 1
    assert said in capsys.readouterr().out
    assert not any(PATIENT in what for _, what in found), "the audit's own words tell nobody"


def test_what_formats_carry_by_themselves_is_no_finding(results):
    nifti(results / "x.nii.gz")
    (results / "x.png").write_bytes(picture(format="PNG"))
    (results / "x.webp").write_bytes(picture(format="WEBP"))
    write_table(results / "x.parquet", pd.DataFrame({"a": ["b"], "n": [1.5]}))
    (results / "events.out.tfevents.1.host").write_bytes(b"\x09\xff\x80\x00loss\x00")
    (results / ".lock").touch()
    (results / "x.svg").write_text('<svg xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>')
    (results / "verdict.html").write_text('{"when":"2026-01-02","scan":"h-ab12"}')
    assert findings(results) == []


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["phi-audit", str(tmp_path)])
    assert left.value.code == 2
    assert "give the folder `results` of a study" in capsys.readouterr().err


NOBODY = Sources({}, set(), set())


def test_an_archive_of_the_programs_own_files_is_no_finding_and_anything_else_in_it_is_read(tmp_path):
    own = CHECKOUT / "pyproject.toml"
    with zipfile.ZipFile(tmp_path / "workflow.zip", "w") as packed:
        packed.write(own, "pyproject.toml")
    assert audit(tmp_path, NOBODY)[1] == []
    with zipfile.ZipFile(tmp_path / "workflow.zip", "a") as packed:
        packed.writestr("notes.txt", "seen on 2019-03-04")
    (found,) = audit(tmp_path, NOBODY)[1]
    assert found.what.startswith("notes.txt") and found.what.endswith("a date")


def test_the_day_on_which_the_report_was_made_is_no_patients_date(tmp_path):
    (tmp_path / "report.html").write_text("Made by NeuroRAD 0.1.0 on 2026-11-26")
    assert audit(tmp_path, NOBODY)[1] == []
    (tmp_path / "report.html").write_text("Made by NeuroRAD 0.1.0 on 2026-11-26, scanned on 2026-11-26")
    assert [finding.what for finding in audit(tmp_path, NOBODY)[1]] == ["line 1: a date"]
