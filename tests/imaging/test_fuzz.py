"""Thousands of spoiled NIfTI files: each is read or refused by name, in time; none is misread without a word."""

import gzip
import time

import nibabel as nib
import numpy as np
import pytest

from neurorad.imaging.scan import Image, ScanError, read_image

CASES = 3000
SECONDS = 5.0


def original():
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 900, (12, 14, 10)).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([-1.5, 1.5, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    return image.to_bytes()


def spoiled(raw, rng):
    """One mutation: bytes of the header, of the whole file, of the compressed file, a cut, or a doubled piece."""
    kind = ("header", "anywhere", "compressed", "cut", "cut header", "doubled")[int(rng.integers(6))]
    content = bytearray(raw)
    if kind in ("header", "anywhere"):
        for at in rng.integers(0, 352 if kind == "header" else len(content), int(rng.integers(1, 6))):
            content[at] = int(rng.integers(256))
    elif kind == "cut header":
        content = content[: int(rng.integers(0, 352))]
    elif kind == "doubled":
        at = int(rng.integers(0, len(content)))
        content = content[:at] + content[at // 2 :]
    packed = bytearray(gzip.compress(bytes(content), mtime=0))
    if kind == "compressed":
        for at in rng.integers(0, len(packed), int(rng.integers(1, 6))):
            packed[at] = int(rng.integers(256))
    elif kind == "cut":
        packed = packed[: int(rng.integers(0, len(packed)))]
    return kind, bytes(packed)


def test_no_spoiled_file_crashes_hangs_or_is_misread(tmp_path):
    raw, rng = original(), np.random.default_rng(1)
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(raw, mtime=0))
    whole = read_image(path, "t1n")
    refused, read, slowest = 0, 0, 0.0
    for _ in range(CASES):
        kind, content = spoiled(raw, rng)
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            image = read_image(path, "t1n")
        except ScanError as reason:
            refused += 1
            assert str(reason).startswith("t1n: ") and len(str(reason)) > 10
        else:
            read += 1
            assert isinstance(image, Image)
            assert np.isfinite(image.voxels).all() and np.isfinite(image.affine).all()
            assert image.voxels.ndim == 3 and image.voxels.min() < image.voxels.max()
            if kind in ("compressed", "cut"):
                # The checksum of gzip covers the content: what still decodes is what was there.
                assert np.array_equal(image.voxels, whole.voxels)
        slowest = max(slowest, time.perf_counter() - start)
    print(f"{CASES} spoiled files: {refused} refused by name, {read} read whole, slowest {slowest:.2f} s")
    assert refused > CASES // 4
    assert slowest < SECONDS


def edited(tmp_path, **fields):
    raw = bytearray(original())
    header = nib.Nifti1Header(bytes(raw[:348]))
    for name, value in fields.items():
        header[name] = value
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(raw[348:]), mtime=0))
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dim": [3, 2048, 2048, 2048, 1, 1, 1, 1]}, "implausible shape"),  # 16 GiB of int16 that are not there
        ({"dim": [3, 12, 14, 400, 1, 1, 1, 1]}, "truncated|damaged"),
        ({"dim": [3, 12, 14, -10, 1, 1, 1, 1]}, "t1n: "),
        ({"dim": [9, 12, 14, 10, 1, 1, 1, 1]}, "t1n: "),
        ({"dim": [3, 12, 14, 1, 1, 1, 1, 1]}, "implausible shape"),
        ({"dim": [4, 12, 14, 5, 2, 1, 1, 1]}, "3D"),
        ({"sform_code": 0, "qform_code": 0}, "no orientation"),
        ({"srow_x": [1.5, 0, 0, 0]}, "sform says RAS and qform LAS: left and right may be exchanged"),
        ({"quatern_b": 3.0}, "qform is no orientation"),
        ({"srow_x": [0, 0, 0, 0]}, "singular"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "singular"),
        ({"datatype": 128, "bitpix": 24}, "no intensities|damaged|truncated"),
        ({"datatype": 999}, "t1n: "),
        ({"scl_slope": 1e38}, "NaN or infinite"),
        ({"vox_offset": 1e6}, "truncated|damaged"),
        ({"magic": b"xyz"}, "not a readable NIfTI"),
    ],
)
def test_lies_in_the_header_are_refused_by_name(tmp_path, fields, reason):
    with pytest.raises(ScanError, match=reason):
        read_image(edited(tmp_path, **fields), "t1n")


def test_negative_spacing_in_the_affine_is_only_an_orientation(tmp_path):
    image = read_image(edited(tmp_path, srow_z=[0, 0, -3, 0], qform_code=0), "t1n")
    assert (image.spacing > 0).all()
    assert np.allclose(np.diag(image.affine)[:3], [1.5, 1.5, 3.0])
