"""Grids have the orientation, field of view and middle that a release or a scanner gives them."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neurorad.cohorts.inventory import grid_class
from neurorad.phantom.grids import SRI24_TO_MNI, atlas_grid, native_grid, rigid


def corners(grid) -> np.ndarray:
    """RAS mm of the first corner of the field of view, and of the opposite one."""
    ends = np.array([[-0.5, -0.5, -0.5], np.array(grid.shape) - 0.5])
    return nib.affines.apply_affine(grid.affine, ends)


@pytest.mark.parametrize(
    ("name", "shape", "axes", "first"),
    [
        ("sri24", (240, 240, 155), ("L", "P", "S"), (0, 239, 0)),
        ("mni152-182", (182, 218, 182), ("L", "A", "S"), (90, -126, -72)),
    ],
)
def test_at_one_millimetre_the_grid_is_the_releases_own(name, shape, axes, first):
    grid = atlas_grid(name, 1.0)
    assert grid.shape == shape
    assert nib.aff2axcodes(grid.affine) == axes
    np.testing.assert_allclose(grid.affine[:3, 3], first)
    np.testing.assert_allclose(grid.spacing, 1)


@pytest.mark.parametrize("name", ["sri24", "mni152-182"])
@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0, 3.0, 4.0])
def test_a_coarser_grid_keeps_the_field_of_view_and_is_still_recognised(name, spacing):
    fine, coarse = atlas_grid(name, 1.0), atlas_grid(name, spacing)
    np.testing.assert_allclose(corners(coarse)[0], corners(fine)[0], atol=1e-9)
    beyond = np.abs(corners(coarse)[1] - corners(coarse)[0]) - np.abs(corners(fine)[1] - corners(fine)[0])
    assert (beyond > -1e-9).all()
    assert (beyond < spacing).all()
    assert grid_class(coarse.shape, tuple(coarse.spacing)) == name


@pytest.mark.parametrize(
    ("plane", "to_anterior", "axes"),
    [
        ("axial", False, ("L", "P", "S")),
        ("axial", True, ("L", "A", "S")),
        ("sagittal", False, ("P", "I", "L")),
    ],
)
def test_a_scanners_grid_lies_around_its_centre_in_its_plane(plane, to_anterior, axes):
    centre = np.array([3.0, -18.0, 8.0])
    grid = native_grid(plane, 0.9, 5.0, centre, 0.0, to_anterior)
    assert nib.aff2axcodes(grid.affine) == axes
    np.testing.assert_allclose(grid.spacing, [0.9, 0.9, 5.0])
    np.testing.assert_allclose(corners(grid).mean(0), centre, atol=1e-9)
    assert abs(grid.shape[0] * 0.9 - 230) < 0.9
    assert grid_class(grid.shape, tuple(grid.spacing)) == "native"


def test_a_tilt_turns_the_slices_about_the_left_right_axis():
    flat, tilted = (native_grid("axial", 1.0, 3.0, np.zeros(3), tilt) for tilt in (0.0, 10.0))
    turn = (tilted.affine[:3, :3] / tilted.spacing) @ np.linalg.inv(flat.affine[:3, :3] / flat.spacing)
    np.testing.assert_allclose(turn, Rotation.from_euler("x", 10, degrees=True).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(corners(tilted).mean(0), 0, atol=1e-9)


def test_a_rigid_motion_is_scipys_rotation_about_the_centre_and_then_a_shift():
    degrees, shift, centre = np.array([5.0, -12.0, 30.0]), np.array([1.0, 2.0, -3.0]), np.array([0.0, -18.0, 8.0])
    matrix = rigid(degrees, shift, centre)
    turn = Rotation.from_euler("xyz", degrees, degrees=True)
    place = np.array([10.0, 20.0, -5.0])
    np.testing.assert_allclose((matrix @ [*place, 1])[:3], turn.apply(place - centre) + centre + shift)
    np.testing.assert_allclose((matrix @ [*centre, 1])[:3], centre + shift)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(matrix[3], [0, 0, 0, 1])


def test_the_middle_of_the_sri24_brain_falls_into_the_middle_of_the_mni_brain():
    commissure = np.array([-120.0, 120.0, 70.0, 1.0])  # close to the middle of SRI24's field of view
    assert np.abs((SRI24_TO_MNI @ commissure)[:3] - [0, -5, 0]).max() < 12
    stretch = np.linalg.svd(SRI24_TO_MNI[:3, :3], compute_uv=False)
    assert np.linalg.det(SRI24_TO_MNI) > 0
    assert (np.abs(stretch - 1.1) < 0.1).all()
