"""A lesion is core in rim in oedema, and each latent moves the one feature it is named after."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from neurorad.phantom import anatomy, lesion
from neurorad.phantom.plan import LATENTS
from neurorad.phantom.signal import TISSUES
from neurorad.seeds import generator

STEP = 3.0
CODES = {"core": 1, "oedema": 2, "enhancing": 3, "cavity": 4}
GLIOMA = {"place": "hemisphere", "lesions": 1, "shift": {}}


@pytest.fixture(scope="module")
def brain(atlas):
    """Template points [3, N], the shape they came from and healthy fractions [9, N]."""
    low, high = atlas.box + atlas.origin
    axes = [np.arange(a - 6, b + 7, STEP) for a, b in zip(low, high, strict=True)]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    points = mesh.reshape(3, -1)
    healthy = np.zeros((len(TISSUES), points.shape[1]), np.float32)
    for index, part in enumerate(atlas.maps):
        healthy[index] = anatomy.sample(part, points, atlas.origin, 1.0) / 255
    return points, mesh.shape[1:], healthy


@pytest.fixture(scope="module")
def grown(brain, atlas):
    """Fractions by tissue [X, Y, Z], the mask and the template points, of a person with the given latents."""
    points, shape, healthy = brain

    def grow(disease=GLIOMA, growth=1.0, treated=False, seed=0, **latents):
        values = {**dict.fromkeys(LATENTS, 0.0), "lateral": 0.8, **latents}
        found = lesion.lesions(values, disease, growth, treated, atlas, generator("lesion", seed))
        fractions = healthy.copy()
        lesion.grow(fractions, points, found, disease["place"], 1.0)
        mask = lesion.mask(fractions, CODES).reshape(shape)
        parts = {name: fractions[k].reshape(shape) for k, name in enumerate(TISSUES)}
        return parts, mask, points.reshape(3, *shape), found

    return grow


def solid(parts):
    return parts["necrosis"] + parts["tumour"] + parts["enhancing"]


def centroid(parts, points):
    weight = solid(parts)
    return (points * weight).sum((1, 2, 3)) / weight.sum()


FEATURES = {
    "size": lambda parts, mask, points: (mask == CODES["core"]).sum() + (mask == CODES["enhancing"]).sum(),
    "necrosis": lambda parts, mask, points: parts["necrosis"].sum() / solid(parts).sum(),
    "enhancing": lambda parts, mask, points: parts["enhancing"].sum() / solid(parts).sum(),
    "oedema": lambda parts, mask, points: (mask == CODES["oedema"]).sum(),
    "frontal": lambda parts, mask, points: centroid(parts, points)[1],
    "vertical": lambda parts, mask, points: centroid(parts, points)[2],
    "lateral": lambda parts, mask, points: centroid(parts, points)[0],
}


@pytest.mark.parametrize("latent", FEATURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_latent_shifted_up_raises_its_feature(grown, latent, seed):
    """Texture is set low: its patches hold necrosis of their own, which is not the core's."""
    steps = (-1.2, -0.4, 0.4, 1.2)
    measured = [FEATURES[latent](*grown(seed=seed, texture=-4.0, **{latent: value})[:3]) for value in steps]
    assert (np.diff(measured) > 0).all(), measured


def test_lateral_says_the_side(grown):
    for value in (-2.0, -0.1, 0.1, 2.0):
        parts, _, points, _ = grown(lateral=value)
        assert np.sign(centroid(parts, points)[0]) == np.sign(value)
        assert abs(centroid(parts, points)[0]) > 15


def test_texture_makes_the_tumour_patchy(grown):
    smooth = grown(enhancing=2.5, necrosis=-4.0, texture=-4.0)[0]["enhancing"]
    inside = smooth > 0.9
    spread = [grown(enhancing=2.5, necrosis=-4.0, texture=t)[0]["enhancing"][inside].std() for t in (-2, -0.5, 0.5, 2)]
    assert inside.sum() > 100
    assert (np.diff(spread) > 0).all()
    assert spread[-1] > 3 * spread[0]


def test_mismatch_and_uptake_move_relaxation_and_not_the_shape(grown):
    plain, _, _, _ = grown()
    other, _, _, _ = grown(mismatch=2.0, uptake=2.0)
    assert all(np.array_equal(plain[name], other[name]) for name in TISSUES)
    factors = [lesion.tumour_t1({"mismatch": value}) for value in (-2, -1, 0, 1, 2)]
    assert (np.diff(factors) > 0).all()
    assert factors[2] == pytest.approx(0.8 + 1.3 / 2)
    doses = [lesion.uptake({"uptake": value}) for value in (-2, -1, 0, 1, 2)]
    np.testing.assert_allclose(np.diff(np.log(doses)), 0.5)
    assert doses[2] == pytest.approx(0.42)
    assert lesion.uptake({"uptake": 9}) == 2.0


@pytest.mark.parametrize("seed", range(4))
def test_necrosis_lies_in_the_enhancing_rim_and_the_rim_in_oedema(grown, seed):
    parts, mask, points, found = grown(seed=seed, enhancing=2.5, necrosis=1.0, texture=-4.0, oedema=1.0)
    necrosis, rim, oedema = (parts[name] > 0.5 for name in ("necrosis", "enhancing", "oedema"))
    assert min(necrosis.sum(), rim.sum(), oedema.sum()) > 20
    around = binary_dilation(necrosis) & ~necrosis
    assert rim[around].mean() > 0.85, "what touches the necrosis is rim"
    assert not (binary_dilation(necrosis) & oedema).any()
    distance = np.sqrt(((points - found[0].centre[:, None, None, None]) ** 2).sum(0))
    radii = [distance[where].mean() for where in (necrosis, rim, oedema)]
    assert radii[0] < radii[1] < radii[2]
    assert set(np.unique(mask)) == {0, 1, 2, 3}


@pytest.mark.parametrize("place", ["hemisphere", "surface", "brainstem"])
def test_a_lesion_replaces_brain_and_never_adds_to_it(grown, brain, place):
    _, shape, healthy = brain
    disease = {"place": place, "lesions": 1, "shift": {}}
    for seed in range(3):
        parts, mask, points, found = grown(disease=disease, seed=seed, frontal=0.5 * seed)
        before = healthy.sum(0).reshape(shape)
        after = sum(parts.values())
        np.testing.assert_allclose(after, before, atol=0.02)
        assert min(part.min() for part in parts.values()) >= 0
        assert (mask > 0).sum() > 50
        assert (before[mask > 0] > 0.45).all()
        nearest = ((points - found[0].centre[:, None, None, None]) ** 2).sum(0).argmin()
        assert before.ravel()[nearest] > 0.3


def test_where_a_disease_grows_is_its_own_place(grown):
    glioma, surface, stem = (
        grown(disease={"place": place, "lesions": 1, "shift": {}})[3][0].centre
        for place in ("hemisphere", "surface", "brainstem")
    )
    assert abs(stem[0]) < 6
    assert stem[2] < -20
    assert abs(glioma[0]) > 14
    assert np.linalg.norm(surface) > np.linalg.norm(glioma) + 15


def test_oedema_of_a_hemisphere_does_not_cross_the_midline(grown):
    parts, _, points, _ = grown(oedema=2.5, size=1.5, lateral=0.01)
    other_side = points[0] < -6
    assert parts["oedema"].sum() > 500
    assert parts["oedema"][other_side].sum() < 0.01 * parts["oedema"].sum()


def test_metastases_are_several_and_the_first_is_the_largest(grown, shipped):
    found = grown(disease=shipped["diseases"]["metastasis"])[3]
    assert len(found) == 3
    radii = [one.radius for one in found]
    assert radii == sorted(radii, reverse=True)
    apart = [np.linalg.norm(found[a].centre - found[b].centre) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 5


def test_a_disease_shifts_the_latents_it_lists(grown, shipped):
    glioma = grown()[3][0]
    meningioma = grown(disease=shipped["diseases"]["meningioma"])[3][0]
    assert meningioma.enhancing > 0.99 > glioma.enhancing
    assert meningioma.core < 0.02 < glioma.core
    assert grown(disease=shipped["diseases"]["metastasis"])[3][0].radius == pytest.approx(18.5 * np.exp(-0.24 * 2.2))


def test_the_same_person_keeps_the_lesion_and_it_grows(grown):
    first, later = grown()[3][0], grown(growth=1.3)[3][0]
    np.testing.assert_array_equal(first.centre, later.centre)
    np.testing.assert_array_equal(first.waves, later.waves)
    assert later.radius == pytest.approx(1.3 * first.radius)
    volumes = [(grown(growth=g)[1] > 0).sum() for g in (0.8, 1.0, 1.3)]
    assert volumes[0] < volumes[1] < volumes[2]


def test_after_surgery_there_is_a_cavity_in_the_middle(grown):
    before, _, points, found = grown(texture=-4.0)
    after, mask, _, _ = grown(treated=True, texture=-4.0)
    assert before["cavity"].sum() == 0
    cavity = mask == CODES["cavity"]
    assert cavity.sum() > 50
    centre = points[:, cavity].mean(1)
    assert np.linalg.norm(centre - found[0].centre) < 5
    assert solid(after).sum() < 0.8 * solid(before).sum()


def test_the_mask_is_the_leading_region_where_half_of_the_voxel_is_lesion():
    fractions = np.zeros((len(TISSUES), 6), np.float32)
    for voxel, parts in enumerate(
        [
            {"wm": 1.0},
            {"wm": 0.6, "oedema": 0.4},
            {"wm": 0.4, "oedema": 0.6},
            {"enhancing": 0.4, "necrosis": 0.3, "tumour": 0.3},
            {"enhancing": 0.7, "oedema": 0.3},
            {"cavity": 0.9, "csf": 0.1},
        ]
    ):
        for name, share in parts.items():
            fractions[TISSUES.index(name), voxel] = share
    assert lesion.mask(fractions, CODES).tolist() == [0, 0, 2, 1, 3, 4]
    assert lesion.mask(fractions, {"core": 2, "oedema": 4, "enhancing": 1}).tolist() == [0, 0, 4, 2, 1, 0]
