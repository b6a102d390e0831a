"""Each rendered cohort is what the real reader of its release expects, and the same seed gives the same bytes."""

import copy
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from neurorad.cli import main
from neurorad.cohorts.inventory import list_scans, pseudonym
from neurorad.cohorts.label_tables import read_labels
from neurorad.cohorts.labels import harmonise
from neurorad.cohorts.releases import RELEASES
from neurorad.imaging.scan import ScanError, detected_state, read_image, same_grid
from neurorad.phantom import releases
from neurorad.phantom.plan import plan
from neurorad.phantom.releases import write_cohort
from neurorad.phantom.render import Study
from neurorad.phantom.tables import TABLES
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

COHORTS = (
    "brats-gli-pre",
    "brats-gli-post",
    "brats-men",
    "brats-met",
    "brats-ped",
    "lumiere",
    "mu-glioma-post",
    "ucsf-pdgm",
    "upenn-gbm",
    "cuimc",
)
NIFTI = COHORTS[:-1]


@pytest.fixture(scope="module")
def listed(release):
    """The inventory of a rendered cohort and the files nobody explains."""

    def scans(cohort):
        return list_scans(cohort, release(cohort), RELEASES[cohort])

    return scans


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def planned(study: Study, cohort: str):
    return study.plan.scans[study.plan.scans["cohort"] == cohort]


def usable(scans):
    return scans[scans["problem"] == ""].to_dict("records")


def test_the_recipe_has_the_seven_pretraining_cohorts_and_three_test_sites(shipped):
    assert tuple(shipped["cohorts"]) == COHORTS
    assert set(TABLES) == {"ucsf-pdgm", "upenn-gbm", "cuimc"}


@pytest.mark.parametrize("cohort", COHORTS)
def test_the_reader_lists_the_planned_scans_and_explains_every_file(listed, study, cohort):
    scans, unknown = listed(cohort)
    expected = list(planned(study, cohort)[["patient", "session"]].itertuples(index=False, name=None))
    if cohort == "cuimc":
        expected = [(pseudonym(cohort, patient), pseudonym(cohort, session)) for patient, session in expected]
    assert sorted(zip(scans["patient"], scans["session"], strict=True)) == sorted(expected)
    assert unknown == []
    documented = {"cuimc": "skull", "brats-ped": "stripped or defaced"}
    assert (scans["state"] == documented.get(cohort, "stripped")).all()


@pytest.mark.parametrize("cohort", COHORTS)
def test_only_the_planted_missing_sequence_is_a_problem(listed, study, cohort):
    scans, _ = listed(cohort)
    planted = planned(study, cohort).query("missing != ''")
    if cohort == "cuimc":  # a folder of series does not tell; the headers do, one stage later
        assert len(planted) == 1
        assert (scans["problem"] == "").all()
        return
    found = {row["patient"]: row["problem"] for row in scans.to_dict("records") if row["problem"]}
    assert found == {row["patient"]: f"missing sequence {row['missing']}" for row in planted.to_dict("records")}
    assert len(found) == (1 if cohort == "brats-men" else 0)


@pytest.mark.parametrize("cohort", NIFTI)
def test_every_scan_is_on_the_grid_of_its_release(listed, study, cohort):
    scans, _ = listed(cohort)
    grids = set(scans.loc[scans["problem"] == "", "grid"])
    assert grids == {study.recipe["cohorts"][cohort]["grid"]}


@pytest.mark.parametrize("cohort", NIFTI)
def test_images_are_in_the_state_the_release_declares(listed, study, cohort):
    truncated = {row["patient"]: row["truncated"] for row in planned(study, cohort).to_dict("records")}
    scans, _ = listed(cohort)
    for row in usable(scans):
        images = [read_image(row[name], name) for name in SEQUENCES if truncated[row["patient"]] != name]
        (state,) = {detected_state(image) for image in images}
        assert state == ("skull" if cohort == "cuimc" else "stripped")
        assert state in row["state"].split(" or ")
        assert same_grid(images)
        assert all(100 < np.percentile(image.voxels[image.voxels > 0], 90) < 20_000 for image in images)


def test_upenn_and_lumiere_also_ship_heads_with_skull(release):
    unstripped = sorted((release("upenn-gbm") / "images_structural_unstripped").rglob("*.nii.gz"))
    native = sorted(
        path for path in (release("lumiere") / "Imaging").rglob("*.nii.gz") if path.parent.name[:4] == "week"
    )
    assert unstripped
    assert len(unstripped) % 4 == len(native) % 4 == 0
    assert native
    for path in (*unstripped[:4], *native[:4]):
        assert detected_state(read_image(path, path.name)) == "skull"
    assert not same_grid([read_image(path, path.name) for path in native[:4]])


def test_upenn_strips_its_own_heads(release):
    for path in sorted((release("upenn-gbm") / "images_structural").rglob("*_T2.nii.gz"))[:2]:
        name = path.name.replace(".nii.gz", "_unstripped.nii.gz")
        whole = nib.load(release("upenn-gbm") / "images_structural_unstripped" / path.parent.name / name).get_fdata()
        brain = nib.load(path).get_fdata()
        inside = brain > 0
        np.testing.assert_array_equal(brain[inside], np.maximum(whole[inside], 1))
        assert (whole[~inside] > 0).mean() > 0.5


def test_the_truncated_file_opens_but_does_not_decode(listed, study):
    (fault,) = [f for f in study.plan.faults if f["kind"] == "truncated file"]
    scans, _ = listed("brats-ped")
    row = scans[scans["patient"] == fault["patient"]].iloc[0]
    assert row["problem"] == ""
    assert nib.load(row["t1c"]).shape == nib.load(row["t1n"]).shape
    with pytest.raises(ScanError, match="truncated"):
        read_image(row["t1c"], "t1c")
    for name in ("t1n", "t2w", "t2f"):
        assert read_image(row[name], name).voxels.max() > 0


@pytest.mark.parametrize("cohort", NIFTI)
def test_tumour_masks_have_the_codes_of_the_release_and_lie_in_the_brain(listed, study, cohort):
    codes = study.recipe["cohorts"][cohort]["labels"]
    scans, _ = listed(cohort)
    seen, masks = set(), 0
    for row in usable(scans):
        path = row["tumour"]
        if cohort == "lumiere":
            path = Path(row["t1n"]).parents[1] / "segmentation" / "seg_mask.nii.gz"
        if not path:
            assert (cohort, row["session"]) == ("upenn-gbm", "21")
            continue
        mask, image = nib.load(path), nib.load(row["t2w"])
        np.testing.assert_allclose(mask.affine, image.affine)
        voxels = np.asarray(mask.dataobj)
        assert mask.get_data_dtype() == np.uint8
        assert (voxels > 0).sum() >= 5
        assert (np.asarray(image.dataobj)[voxels > 0] > 0).all()
        seen |= set(np.unique(voxels).tolist())
        masks += 1
    assert seen - {0} <= set(codes.values())
    assert {codes["core"], codes["oedema"]} & seen
    assert codes["enhancing"] in seen or cohort == "brats-ped"
    if codes.get("cavity", codes["core"]) != codes["core"]:
        assert codes["cavity"] in seen
    assert masks >= 3


def test_ucsf_ships_raw_and_corrected_copies_and_a_brain_mask(release, study):
    for row in planned(study, "ucsf-pdgm").to_dict("records"):
        folder = release("ucsf-pdgm") / f"{row['patient']}_nifti"
        spelled = {"T1", "T1c", "T2", "FLAIR"}
        names = {path.name.removeprefix(row["patient"] + "_").removesuffix(".nii.gz") for path in folder.iterdir()}
        assert names == spelled | {f"{n}_bias" for n in spelled} | {"tumor_segmentation", "brain_segmentation"}
        raw, corrected, brain = (
            np.asarray(nib.load(folder / f"{row['patient']}_{name}.nii.gz").dataobj)
            for name in ("T1", "T1_bias", "brain_segmentation")
        )
        np.testing.assert_array_equal(raw > 0, brain > 0)
        assert not np.array_equal(raw, corrected)


@pytest.mark.parametrize("cohort", TABLES)
def test_the_table_in_the_folder_labels_the_scans_in_the_folder(release, listed, study, cohort):
    patients, problems, _ = harmonise(*read_labels(release(cohort) / TABLES[cohort][0], cohort), cohort)
    typos = {f["patient"] for f in study.plan.faults if f["kind"] == "label typo" and f["cohort"] == cohort}
    assert {problem.patient for problem in problems} == typos
    assert set(patients["patient"]) | typos == set(listed(cohort)[0]["patient"])


def test_pretraining_cohorts_have_no_table(release):
    for cohort in COHORTS[:7]:
        assert [path for path in release(cohort).rglob("*") if path.suffix in (".csv", ".tsv", ".json")] == []


@pytest.fixture(scope="module")
def tiny(shipped):
    """One patient a cohort, of three cohorts, without faults: the recipe of the determinism tests."""
    recipe = copy.deepcopy(shipped)
    wanted = ("brats-ped", "cuimc", "ucsf-pdgm")
    recipe["cohorts"] = {name: {**recipe["cohorts"][name], "patients": 1} for name in wanted}
    return {**recipe, "minimum": 1, "faults": []}


def rendered(recipe, seed, cohort, out):
    write_cohort(Study(recipe, seed, 4.0, plan(recipe, seed, 1)), cohort, out)
    return digests(out)


@pytest.mark.parametrize("cohort", ["ucsf-pdgm", "cuimc"])
def test_the_same_seed_gives_the_same_bytes_here_and_in_a_fresh_process(tiny, tmp_path, cohort):
    here = rendered(tiny, 7, cohort, tmp_path / "here")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny, sort_keys=False))
    command = [sys.executable, "-m", "neurorad.cli", "phantom", "--cohort", cohort, "--out", str(tmp_path / "there")]
    command += ["--recipe", str(path), "--seed", "7", "--spacing", "4"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "12345"})
    assert digests(tmp_path / "there") == here
    assert len(here) > (8 if cohort == "ucsf-pdgm" else 100)


def test_another_seed_gives_other_bytes_in_every_image(tiny, tmp_path):
    one, other = (rendered(tiny, seed, "ucsf-pdgm", tmp_path / str(seed)) for seed in (7, 8))
    assert set(one) == set(other)
    assert not [name for name in one if one[name] == other[name]]


def test_a_cohort_more_in_the_recipe_changes_no_byte_of_another(tiny, shipped, tmp_path):
    more = {**tiny, "cohorts": {"lumiere": shipped["cohorts"]["lumiere"], **tiny["cohorts"]}}
    assert rendered(tiny, 7, "brats-ped", tmp_path / "one") == rendered(more, 7, "brats-ped", tmp_path / "two")


def test_an_unknown_cohort_is_named_with_the_known_ones(study, tmp_path):
    with pytest.raises(InputError, match="'brats-goat': not in the recipe; it has brats-gli-pre, "):
        write_cohort(study, "brats-goat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_as_it_is(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out: exists and is not empty"):
        write_cohort(study, "brats-ped", tmp_path / "out")
    with pytest.raises(InputError, match=re.escape("mine.txt: exists")):
        write_cohort(study, "brats-ped", tmp_path / "out" / "mine.txt")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    assert len(rendered(tiny, 7, "brats-ped", tmp_path / "out")) == 5


def test_a_failure_half_way_leaves_nothing_behind(study, tmp_path, monkeypatch):
    def fails(_study, scan, root):
        (root / scan["scan"]).mkdir()
        if scan["patient"].endswith("2"):
            raise OSError("no space left")

    monkeypatch.setitem(releases._WRITERS, "brats-ped", fails)
    with pytest.raises(OSError, match="no space left"):
        write_cohort(study, "brats-ped", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sequence_and_nothing_else_is_not_written(study, tmp_path, monkeypatch):
    scans = study.plan.scans.copy()
    own = scans.index[scans["cohort"] == "brats-ped"]
    scans = scans.loc[own[:1]].assign(missing="t1n")
    write_cohort(replace(study, plan=replace(study.plan, scans=scans)), "brats-ped", tmp_path / "out")
    endings = sorted(path.name.rsplit("-", 1)[1] for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert endings == ["seg.nii.gz", "t1c.nii.gz", "t2f.nii.gz", "t2w.nii.gz"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--cohort", "cuimc"], "needs --out"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--spacing", "0.5"], "--spacing 0.5: must be from 1 to 4"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--spacing", "4.1"], "--spacing 4.1"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--spacing", "nan"], "--spacing nan"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--scale", "0"], "scale 0.0"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--scale", "-2"], "scale -2.0"),
        (["--cohort", "cuimc", "--out", "{tmp}/out", "--scale", "inf"], "scale inf"),
        (["--cohort", "hospital", "--out", "{tmp}/out"], "'hospital'"),
        (["--cohort", "cuimc", "--out", "{tmp}"], "not empty"),
        (["--truth", "{tmp}/truth.json", "--recipe", "{tmp}/none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_at_the_command_line_is_one_line_and_exit_2(tmp_path, capsys, flags, named):
    (tmp_path / "occupied").touch()
    with pytest.raises(SystemExit) as left:
        main(["phantom", *[flag.format(tmp=tmp_path) for flag in flags]])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.count("\n") == 1
    assert named in error
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]
