"""Headers are read as nibabel reads them, and what is no image says why."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from neurorad.nifti import Geometry, NiftiError, read_geometry

AFFINE = np.array([[-0.9, 0.1, 0, 12], [0.1, 0.9, 0, -30], [0, 0, 5.5, 7], [0, 0, 0, 1.0]])


def saved(path, kind=nib.Nifti1Image, shape=(6, 7, 8), dtype=np.int16):
    nib.save(kind(np.zeros(shape, dtype), AFFINE), path)
    return path


def changed(path, **fields):
    """The same NIfTI-1 file with other header fields, which nibabel would set right on saving."""
    content = path.read_bytes()
    header = nib.Nifti1Header(content[:348])
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_shape_and_affine_are_nibabel_s(tmp_path, kind, name):
    path = saved(tmp_path / name, kind)
    found = read_geometry(path)
    assert found.shape == (6, 7, 8)
    assert np.array_equal(found.affine, nib.load(path).affine)
    assert np.allclose(found.spacing, nib.load(path).header.get_zooms(), atol=1e-5)


def test_real_headers_are_nibabel_s(shared):
    paths = sorted(shared.rglob("*.nii.gz"))
    assert len(paths) > 30
    for path in paths:
        image = nib.load(path)
        found = read_geometry(path)
        assert found.shape == image.shape[:3]
        assert np.array_equal(found.affine, image.affine)


def test_a_big_endian_header_is_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(np.zeros((6, 7, 8), np.dtype(">i2")), AFFINE, header)
    nib.save(image, tmp_path / "x.nii")
    assert (tmp_path / "x.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"
    assert np.allclose(read_geometry(tmp_path / "x.nii").affine, AFFINE, atol=1e-5)


def test_a_last_axis_of_one_is_dropped(tmp_path):
    assert read_geometry(saved(tmp_path / "x.nii.gz", shape=(6, 7, 8, 1))).shape == (6, 7, 8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": (6, 7, 8, 2)}, "expected a 3D image, got shape 6x7x8x2"),
        ({"shape": (6, 7)}, "expected a 3D image"),
        ({"shape": (6, 7, 1)}, "implausible shape 6x7x1"),
        ({"dtype": np.complex64}, "RGB or complex"),
    ],
)
def test_an_image_that_cannot_be_used_says_why(tmp_path, changes, reason):
    with pytest.raises(NiftiError, match=reason):
        read_geometry(saved(tmp_path / "x.nii", **changes))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sform_code": 0, "qform_code": 0}, "no orientation"),
        ({"srow_x": 0}, "singular"),
        ({"srow_x": np.nan}, "singular"),
        ({"datatype": 3333}, "not a readable NIfTI file"),
        ({"magic": b"no!"}, "not a readable NIfTI file"),
    ],
)
def test_a_header_that_cannot_be_used_says_why(tmp_path, fields, reason):
    with pytest.raises(NiftiError, match=reason):
        read_geometry(changed(saved(tmp_path / "x.nii"), **fields))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"short", "not compressed"),
        (gzip.compress(b"short"), "not a readable NIfTI file"),
        (gzip.compress(b"x" * 1000), "not a readable NIfTI file"),
        (gzip.compress(bytes(1000)), "not a readable NIfTI file"),
        (b"\x1f\x8b", "not a readable NIfTI file"),
        (b"\n\n<html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_is_no_nifti_says_what_it_is(tmp_path, content, reason):
    (tmp_path / "x.nii.gz").write_bytes(content)
    with pytest.raises(NiftiError, match=reason):
        read_geometry(tmp_path / "x.nii.gz")


def test_any_cut_through_a_header_is_an_error_and_never_a_crash(tmp_path):
    whole = saved(tmp_path / "x.nii").read_bytes()
    for length in range(0, 348, 7):
        (tmp_path / "cut.nii").write_bytes(whole[:length])
        with pytest.raises(NiftiError):
            read_geometry(tmp_path / "cut.nii")


def test_a_compressed_file_that_is_not_named_so_is_refused(tmp_path):
    path = saved(tmp_path / "x.nii.gz")
    path.rename(tmp_path / "x.nii")
    with pytest.raises(NiftiError, match="compressed but not named .gz"):
        read_geometry(tmp_path / "x.nii")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(NiftiError, match="file is missing"):
        read_geometry(tmp_path / "x.nii")


def test_one_grid_is_equal_to_a_micrometre():
    one = Geometry((6, 7, 8), AFFINE)
    assert one == Geometry((6, 7, 8), AFFINE + 5e-4)
    assert one != Geometry((6, 7, 8), AFFINE + 5e-3)
    assert one != Geometry((6, 7, 9), AFFINE)
