"""The head is that of MNI152, each person's deformation of it smooth, one-to-one and their own."""

import numpy as np
import pytest
from scipy.interpolate import BSpline

from neurorad.phantom import anatomy
from neurorad.phantom.anatomy import CONTROL_LIMIT, CONTROL_ORIGIN, CONTROL_SHAPE, CONTROL_STEP
from neurorad.seeds import generator


def someone(number: int, age: float = 50.0) -> anatomy.Person:
    return anatomy.person(generator("someone", number), age)


def points(step: float = 6.0) -> np.ndarray:
    """Person points [3, X, Y, Z] over the brain."""
    axes = [np.arange(-75, 76, step), np.arange(-110, 80, step), np.arange(-70, 86, step)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def at(atlas: anatomy.Template, *where: tuple[float, float, float]) -> np.ndarray:
    """Fractions [4, N] at template points."""
    place = np.array(where, np.float32).T
    return np.stack([anatomy.sample(m, place, atlas.origin, 1.0) for m in atlas.maps]) / 255


def test_the_template_has_each_tissue_where_anatomy_has_it(atlas):
    csf, gm, wm, vessel = at(atlas, (4, 8, 18), (-13, 4, 12), (27, -22, 32), (0, -92, 4))
    assert csf.argmax() == 0, "lateral ventricle"
    assert gm.argmax() == 1, "caudate nucleus"
    assert wm.argmax() == 2, "corona radiata"
    assert vessel.argmax() == 3, "superior sagittal sinus"


def test_the_template_is_one_adult_brain(atlas):
    ml = atlas.maps.astype(float).sum((1, 2, 3)) / 255 / 1000
    csf, gm, wm, vessel = ml
    assert 600 < gm < 1000
    assert 400 < wm < 750
    assert 1500 < ml.sum() < 2200
    assert 1 < vessel < 60
    assert csf > vessel
    whole = atlas.maps.sum(0, dtype=int)
    assert whole.max() <= 258  # rounding of four maps
    middle = whole[tuple(slice(n // 2 - 20, n // 2 + 20) for n in whole.shape)]
    assert middle.min() >= 252


def test_left_and_right_are_mirror_images(atlas):
    x = np.arange(2, 70, 2.0)
    plane = np.stack(np.meshgrid(x, np.arange(-90, 60, 3.0), np.arange(-30, 70, 3.0), indexing="ij")).reshape(3, -1)
    right = anatomy.sample(atlas.maps[2], plane.astype(np.float32), atlas.origin, 1.0)
    left = anatomy.sample(atlas.maps[2], (plane * [[-1], [1], [1]]).astype(np.float32), atlas.origin, 1.0)
    assert np.corrcoef(left, right)[0, 1] > 0.98


def test_the_brain_box_holds_the_whole_brain(atlas):
    inside = np.argwhere(atlas.maps.sum(0, dtype=int) > 127)
    low, high = atlas.box
    assert (inside.min(0) >= low - 1).all()
    assert (inside.max(0) <= high + 1).all()
    assert (high < atlas.maps.shape[1:]).all()


def test_skin_and_skull_lie_around_the_brain_and_air_around_the_skin():
    head = anatomy.head()
    brain = head.outside == 0
    assert (head.depth[brain] > 0).mean() > 0.999
    border = [head.depth[0], head.depth[-1], head.depth[:, :, -1]]
    assert all((face < 0).mean() > 0.5 for face in border)
    crown = anatomy.sample(head.depth, np.array([[0.0], [-20.0], [88.0]], np.float32), head.origin, 2.0)
    assert 0 < crown[0] < 16
    chin, beside = (
        anatomy.sample(head.depth, np.array(place, np.float32).reshape(3, 1), head.origin, 2.0)[0]
        for place in ((0, 72, -80), (70, 72, -80))
    )
    assert chin > 0 > beside


def test_a_constant_deformation_moves_every_point_by_it():
    coefficients = np.broadcast_to(np.array([3.0, -2.0, 5.0]).reshape(3, 1, 1, 1), (3, *CONTROL_SHAPE)).copy()
    moved = anatomy.displacement(coefficients, points())
    np.testing.assert_allclose(moved, np.broadcast_to([[[[3.0]]], [[[-2.0]]], [[[5.0]]]], moved.shape), atol=1e-9)


def test_a_linear_deformation_is_reproduced_by_the_spline():
    """Cubic B-splines reproduce a line whose values stand in the coefficients."""
    grids = np.meshgrid(*(np.arange(n) for n in CONTROL_SHAPE), indexing="ij")
    coefficients = np.stack([0.1 * (o + CONTROL_STEP * g) for o, g in zip(CONTROL_ORIGIN, grids, strict=True)])
    place = points()
    np.testing.assert_allclose(anatomy.displacement(coefficients, place), 0.1 * place, atol=1e-9)


def test_one_control_point_moves_what_a_cubic_b_spline_moves():
    coefficients = np.zeros((3, *CONTROL_SHAPE))
    coefficients[1, 4, 5, 4] = 10.0
    centre = CONTROL_ORIGIN + CONTROL_STEP * np.array([4, 5, 4])
    bump = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    place = centre[:, None] + np.array([[0, 20, -40, 100], [0, 0, 13, 0], [0, -7, 0, 0.0]])
    expected = 10 * np.prod(np.nan_to_num(bump((place - centre[:, None]) / CONTROL_STEP)), axis=0)
    np.testing.assert_allclose(anatomy.displacement(coefficients, place), [0 * expected, expected, 0 * expected])
    assert expected[0] == pytest.approx(10 * (2 / 3) ** 3)
    assert expected[3] == 0


@pytest.mark.parametrize("number", range(12))
def test_every_persons_deformation_is_one_to_one(number):
    """Where the Jacobian is positive everywhere nothing folds; the worst coefficients allowed are tried too."""
    person = someone(number)
    if number >= 10:
        signs = generator("worst", number).choice([-1, 1], (3, *CONTROL_SHAPE))
        person = anatomy.Person(person.scale, CONTROL_LIMIT * signs, 1.0)
    place = points(4.0)
    field = place * person.scale.reshape(3, 1, 1, 1) + anatomy.displacement(person.coefficients, place)
    slopes = np.stack([np.stack(np.gradient(part, 4.0)) for part in field])
    jacobian = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)))
    assert jacobian.min() > 0
    if number < 10:
        assert 0.3 < jacobian.min() <= jacobian.max() < 3


def test_displacements_are_millimetres_and_everybody_has_their_own():
    place = points()
    fields = [anatomy.displacement(someone(number).coefficients, place) for number in range(6)]
    size = np.sqrt(np.mean([(field**2).mean() for field in fields]))
    assert 1.5 < size < 5
    for a in range(6):
        for b in range(a):
            assert np.abs(fields[a] - fields[b]).mean() > 0.5
    again = anatomy.displacement(someone(0).coefficients, place)
    np.testing.assert_array_equal(fields[0], again)


def test_sizes_stay_within_a_tenth():
    scales = np.array([someone(number).scale for number in range(200)])
    assert (1 / scales).min() >= 0.9 - 1e-9
    assert (1 / scales).max() <= 1.1 + 1e-9
    assert 0.02 < (1 / scales).std() < 0.05
    assert (1 / scales).mean() == pytest.approx(1, abs=0.01)


def test_spaces_of_fluid_widen_with_age():
    medians = [np.median([someone(number, age).atrophy for number in range(60)]) for age in (10, 30, 50, 70, 90)]
    assert (np.diff(medians) > 0).all()
    assert medians[2] == pytest.approx(1, abs=0.1)
    assert medians[4] / medians[2] == pytest.approx(np.exp(0.012 * 40), rel=0.1)


def test_the_fast_map_to_the_template_is_the_exact_one_within_a_fraction_of_a_voxel():
    person = someone(3)
    place = points(5.3).reshape(3, -1)
    exact = place * person.scale[:, None] + anatomy.displacement(person.coefficients, place)
    fast = anatomy.to_template(person, place.astype(np.float32))
    assert fast.dtype == np.float32
    assert np.abs(fast - exact).max() < 0.3


def test_sampling_interpolates_linearly_and_says_what_is_beyond():
    maps = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    origin = np.array([10.0, 20.0, 30.0])
    place = np.array([[10, 12, 11, 99], [20, 24, 22, 20], [30, 36, 31, 30]], np.float32)
    found = anatomy.sample(maps, place, origin, 2.0, beyond=-1.0)
    # voxels (0,0,0), (1,2,3) and (1/2, 1, 1/2) of an array whose value is 12 i + 4 j + k
    np.testing.assert_allclose(found, [0, 23, 6 + 4 + 0.5, -1])
