"""What cannot be trusted is refused by name."""

import nibabel as nib
import numpy as np
import pytest

from neurorad.imaging.scan import ScanError, detected_state, read_image


def nifti(tmp_path, voxels, affine=None, name="x.nii.gz"):
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4) if affine is None else affine), tmp_path / name)
    return tmp_path / name


def ramp(shape=(20, 22, 24)):
    return np.random.default_rng(0).random(shape)


def test_reorients_to_ras(tmp_path):
    voxels = ramp()
    image = read_image(nifti(tmp_path, voxels, np.diag([-2, 1, 3, 1.0])), "t1n")
    assert np.allclose(image.voxels, voxels[::-1].astype(np.float32))
    assert np.allclose(image.spacing, [2, 1, 3])


def test_a_truncated_file_is_refused(tmp_path):
    path = nifti(tmp_path, ramp())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ScanError, match="t1n: (truncated|damaged)"):
        read_image(path, "t1n")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_nifti_is_refused(tmp_path, content):
    (tmp_path / "x.nii.gz").write_bytes(content)
    with pytest.raises(ScanError, match="not a readable NIfTI"):
        read_image(tmp_path / "x.nii.gz", "t2w")


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.full((8, 8, 8), 3.0), "constant"),
        (np.where(ramp() > 0.5, np.nan, 1.0), "NaN"),
        (ramp((8, 8, 8, 2)), "3D"),
        (ramp((8, 8, 1)), "implausible shape"),
    ],
)
def test_untrustworthy_voxels_are_refused(tmp_path, voxels, reason):
    with pytest.raises(ScanError, match=reason):
        read_image(nifti(tmp_path, voxels), "t1c")


def test_no_orientation_is_refused(tmp_path):
    image = nib.Nifti1Image(ramp().astype(np.float32), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "x.nii.gz")
    with pytest.raises(ScanError, match="no orientation"):
        read_image(tmp_path / "x.nii.gz", "t1n")


def test_state_of_real_scans(shared):
    stripped = next((shared / "brats2021").glob("*/*_t1.nii.gz"))
    raw = next((shared / "raw" / "TCGA-FG-6692").glob("*_T1.nii.gz"))
    assert detected_state(read_image(stripped, "t1n")) == "stripped"
    assert detected_state(read_image(raw, "t1n")) == "skull"
