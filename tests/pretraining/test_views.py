"""Views: what is random, what stays, and where a voxel goes."""

from dataclasses import replace

import pytest
import torch
from monai.transforms import AdjustContrast, Affine, RandGaussianNoise

from neurorad.pretraining import geometry as geometry_of_views
from neurorad.pretraining import views
from neurorad.pretraining.draws import uniforms
from neurorad.pretraining.geometry import DRAWS, Crop, Geometry, Sampler, brain_share, placed, rotations
from neurorad.pretraining.intensity import EFFECTS, Intensity, change_intensity, drawn, keep_sequences
from neurorad.problems import InputError

STILL = Geometry(flip=0.0, rotation=0.0, stretch=0.0)
MOVING = Geometry(flip=0.5, rotation=10.0, stretch=0.1)
STRONG = Intensity(
    probability=1.0,
    gamma=1.5,
    brightness=0.1,
    contrast=1.3,
    bias=0.2,
    blur=1.0,
    low_resolution=2.0,
    gibbs=0.3,
    noise=0.2,
    sequence_dropout=0.0,
)
WHOLE = Crop(24, (1.0, 1.0))
PART = Crop(16, (0.5, 0.8))


def make_views(volumes, seeds, crops, geometry, intensity):
    return views.make_views(volumes, brain_share(volumes), seeds, crops, geometry, intensity)


@pytest.fixture
def volumes() -> torch.Tensor:
    """`[3, 4, 24, 24, 24]`: a ball of random values in a background of 0."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, 24)
    ball = (axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) < 0.8
    return (torch.randn(3, 4, 24, 24, 24, generator=generator) * ball).half()


def test_without_randomness_the_view_is_the_volume(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], STILL, None)
    torch.testing.assert_close(view, volumes.float(), atol=1e-4, rtol=1e-4)


def test_a_certain_flip_mirrors_left_and_right_only(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], Geometry(flip=1.1, rotation=0.0, stretch=0.0), None)
    torch.testing.assert_close(view, volumes.float().flip(2), atol=1e-4, rtol=1e-4)


def test_two_views_differ_and_a_seed_repeats_them(volumes):
    first = make_views(volumes, [1, 2, 3], [PART, PART], MOVING, STRONG)
    again = make_views(volumes, [1, 2, 3], [PART, PART], MOVING, STRONG)
    other = make_views(volumes, [4, 5, 6], [PART, PART], MOVING, STRONG)
    assert first[0].shape == (3, 4, 16, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for sample in range(3):
        assert (first[0][sample] - first[1][sample]).abs().mean() > 0.1
        assert (first[0][sample] - other[0][sample]).abs().mean() > 0.1


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(volumes):
    (together,) = make_views(volumes, [1, 2, 3], [PART], MOVING, STRONG)
    (alone,) = make_views(volumes[1:2], [2], [PART], MOVING, STRONG)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("together", [1, 4 * 20**3, 9 * 20**3])
def test_how_much_is_changed_at_a_time_changes_nothing(together):
    """One sequence, one sample or two at a time, as on a CPU, and all at once, as on a GPU."""
    generator = torch.Generator().manual_seed(0)
    brain = (torch.rand(3, 1, 20, 20, 20, generator=generator) < 0.8).float()
    view = torch.randn(3, 4, 20, 20, 20, generator=generator) * brain
    some = replace(STRONG, probability=0.6, sequence_dropout=0.3)
    whole = change_intensity(view.clone(), brain, SEEDS, some)
    parts = change_intensity(view.clone(), brain, SEEDS, some, together)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    kept = keep_sequences(SEEDS, 4, 0.3)
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal((parts != 0).flatten(2).any(dim=2), kept)


def test_a_dropped_sequence_gets_no_effect():
    kept = keep_sequences(range(40), 4, 0.3)
    applied, strength = drawn(range(40), kept, STRONG)
    for effect in EFFECTS:
        assert torch.equal(applied[effect], kept.flatten())
        assert torch.equal(strength[effect] != 0, kept.flatten())


def test_background_stays_exactly_zero(volumes):
    (view,) = make_views(volumes, [1, 2, 3], [WHOLE], STILL, STRONG)
    outside = (volumes == 0).all(dim=1, keepdim=True).expand_as(view)
    assert outside.float().mean() > 0.2
    assert (view[outside] == 0).all()
    assert torch.isfinite(view).all()
    assert (view[~outside] - volumes.float()[~outside]).abs().mean() > 0.1


def test_an_absent_sequence_stays_absent(volumes):
    volumes[:, 2] = 0
    (view,) = make_views(volumes, [1, 2, 3], [PART], MOVING, STRONG)
    assert (view[:, 2] == 0).all()
    assert (view[:, 0] != 0).any()


def test_an_empty_volume_gives_an_empty_finite_view():
    (view,) = make_views(torch.zeros(2, 4, 24, 24, 24), [1, 2], [PART], MOVING, STRONG)
    assert (view == 0).all()


def test_crops_show_brain_that_lies_in_a_corner():
    volumes = torch.zeros(8, 4, 32, 48, 32)
    volumes[:, :, 2:10, 36:46, 3:11] = 1.0
    (view,) = make_views(volumes, list(range(8)), [Crop(16, (0.25, 0.4))], MOVING, None)
    assert ((view != 0).flatten(1).float().mean(dim=1) > 0.05).all()


def test_the_crop_is_a_cube_of_the_asked_size_inside_the_volume():
    """The edge is scale times the shortest axis, and nothing lies outside."""
    shape = (32, 48, 40)
    draws = uniforms(range(50), "geometry", (DRAWS,))
    centre, axes = placed(torch.ones(50, 512), draws, shape, Crop(16, (0.5, 0.5)), STILL)
    torch.testing.assert_close(axes, 8 * torch.eye(3).expand(50, 3, 3))
    assert (centre >= 8).all()
    assert (centre <= torch.tensor(shape) - 8).all()
    assert centre.std(dim=0).min() > 2


def test_only_the_box_that_a_view_sees_is_needed(monkeypatch):
    """Views of one volume after another, each from its box and some slices at a time, equal views of whole volumes."""
    monkeypatch.setattr(views, "CACHED", 3 * 5 * 36 * 44)
    generator, count = torch.Generator().manual_seed(3), 6
    volumes = torch.randn(count, 4, 40, 36, 44, generator=generator) + 5
    share, geometry, crops = (
        brain_share(volumes),
        Geometry(0.5, 45.0, 0.3),
        [Crop(12, (0.2, 0.4)), Crop(16, (0.3, 0.9))],
    )
    seeds = [list(range(count)), list(range(50, 50 + count))]
    found = views.sampled(volumes, share, seeds, crops, geometry)
    monkeypatch.setattr(geometry_of_views, "box_seen", lambda c, a, shape: [tuple(slice(0, n) for n in shape)] * len(c))
    for crop, own, (view, brain) in zip(crops, seeds, found, strict=True):
        places = placed(share, uniforms(own, "geometry", (DRAWS,)), (40, 36, 44), crop, geometry)
        sampler = Sampler(*places, (40, 36, 44), crop.size, volumes.device)
        for sample in range(count):
            whole = torch.cat([volumes[sample], torch.ones(1, 40, 36, 44)]).transpose(0, 1).contiguous()
            expected = sampler.between(sample, sampler.within(sample, whole, 0), slice(None))
            torch.testing.assert_close(brain[sample], (expected[4:] > 0.5).float())
            wanted = expected[:4] / expected[4:].clamp_min(0.5) * brain[sample]
            torch.testing.assert_close(view[sample], wanted, atol=1e-4, rtol=0)


def test_what_a_view_reads_lies_in_its_box():
    """At its corners, with every angle and stretch at an end of its range: between which slices, and where in these."""
    count, random = 60_000, torch.Generator().manual_seed(0)
    ends = torch.tensor([0.0, 0.5, 1.0 - 1e-7])
    draws = torch.rand(count, DRAWS, generator=random)
    for column in (1, 2, 3, 8, 9, 10, 11):
        draws[:, column] = ends[torch.randint(3, (count,), generator=random)]
    shape, crop = (200, 210, 220), Crop(128, (0.1, 0.3))
    centre, axes = placed(torch.ones(count, 512), draws, shape, crop, Geometry(0.5, 45.0, 0.3))
    boxes = geometry_of_views.box_seen(centre, axes, shape)
    first = torch.tensor([[part.start for part in box] for box in boxes])[:, None]
    last = torch.tensor([[part.stop for part in box] for box in boxes])[:, None] - 1
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * (1 - 1 / crop.size)
    centre, axes = centre.double(), axes.double()
    places = centre[:, None] + torch.einsum("nij,cj->nci", axes, corners.double())
    # Boxes that the volume's border does not cut.
    whole = ((first > 0) & (last < torch.tensor(shape) - 1)).all(dim=(1, 2))
    assert whole.sum() > count / 4
    margins = []
    for neighbour in (0, 1):
        slices = (places[..., :1] - 0.5).floor() + neighbour
        # Along the view's axis 0 to the middle of that slice.
        there = places + (slices + 0.5 - places[..., :1]) / axes[:, None, :1, 0] * axes[:, None, :, 0]
        lower = (there - 0.5).round(decimals=9).floor()
        upper = (there - 0.5).round(decimals=9).ceil()
        margins.append(torch.minimum(lower - first, last - upper)[whole].amin(dim=(0, 1)))
    least = torch.stack(margins).amin(dim=0)
    # Not one too many either.
    assert least.tolist() == [0, 0, 0]


def test_rotations_are_rotations():
    matrices = rotations(torch.tensor([[0.3, -0.2, 0.5], [0.0, 0.0, torch.pi / 2]]))
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(2))
    torch.testing.assert_close(matrices[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_dropout_of_sequences_has_its_rate_and_never_takes_all():
    kept = keep_sequences(range(2000), 4, 0.2).float()
    assert float(kept.mean()) == pytest.approx(0.8, abs=0.02)
    assert (keep_sequences(range(200), 4, 1.0).sum(dim=1) == 1).all()


def test_impossible_crops_are_refused():
    with pytest.raises(InputError, match="crop size"):
        Crop(32, (0.5, 1.5))


# Against MONAI, sample by sample, with the numbers that our seeds draw


NOTHING = {
    "probability": 1.0,
    "gamma": 1.0,
    "brightness": 0.0,
    "contrast": 1.0,
    "bias": 0.0,
    "blur": 0.0,
    "low_resolution": 1.0,
    "gibbs": 0.0,
    "noise": 0.0,
    "sequence_dropout": 0.0,
}
SEEDS = [11, 12, 15]


def drawn_strength(effect: int) -> torch.Tensor:
    """`[3, 4]` in [-1, 1]: what `change_intensity` draws for an effect."""
    return 2 * uniforms(SEEDS, "intensity", (2, len(EFFECTS), 4))[:, 1, effect] - 1


def full_brain(size: int = 24) -> torch.Tensor:
    return torch.randn(3, 4, size, size, size, generator=torch.Generator().manual_seed(1))


def changed_by(**effect: float) -> tuple[torch.Tensor, torch.Tensor]:
    view = full_brain()
    return view, change_intensity(view.clone(), torch.ones(3, 1, 24, 24, 24), SEEDS, Intensity(**{**NOTHING, **effect}))


def test_without_effects_nothing_changes():
    view, changed = changed_by()
    torch.testing.assert_close(changed, view, atol=1e-5, rtol=1e-5)


def test_gamma_is_monais():
    view, changed = changed_by(gamma=1.5)
    exponents = 1.5 ** drawn_strength(0)
    assert exponents.std() > 0.1
    for sample in range(3):
        for sequence in range(4):
            theirs = AdjustContrast(float(exponents[sample, sequence]))(view[sample, sequence : sequence + 1])
            torch.testing.assert_close(changed[sample, sequence], torch.as_tensor(theirs)[0], atol=1e-4, rtol=1e-4)


def coordinates(size: int) -> torch.Tensor:
    """`[3, 4, n, n, n]`: a ramp along each axis and a slanted one. All linear interpolations agree on them."""
    x, y, z = torch.meshgrid(*[torch.arange(size).float()] * 3, indexing="ij")
    return torch.stack([x, y, z, x + 2 * y - z]).expand(3, -1, -1, -1, -1).contiguous() / size


@pytest.mark.parametrize(("smooth", "tolerance"), [(False, 1e-4), (True, 0.06)])
def test_geometry_is_monais_affine_of_the_drawn_angles_scales_and_mirrors(smooth, tolerance):
    """To rounding on ramps; on blobs of a standard deviation of 1, two linear interpolations differ by their order."""
    volumes = coordinates(24)
    if smooth:
        volumes = torch.nn.functional.interpolate(full_brain(6), size=24, mode="trilinear")
        volumes = volumes / volumes.std()
    geometry, crop = Geometry(flip=0.5, rotation=25.0, stretch=0.2), Crop(16, (0.5, 0.9))
    d = uniforms(SEEDS, "geometry", (DRAWS,))
    sampler = Sampler(*placed(torch.ones(3, 512), d, (24,) * 3, crop, geometry), (24,) * 3, 16, torch.device("cpu"))
    assert len({bool(value) for value in d[:, 11] < 0.5}) == 2
    for sample, draws in enumerate(d):
        edge = float(0.5 + 0.4 * draws[0]) * 24
        scale = torch.diag(edge * (1 + 0.2 * (2 * draws[1:4] - 1)) / 16)
        if draws[11] < 0.5:
            scale[0, 0] *= -1
        cell = (draws[4] * 512).long()
        corner = torch.stack([cell // 64, cell // 8 % 8, cell % 8]).float()
        centre = ((corner + draws[5:8]) * 3).clamp(edge / 2, 24 - edge / 2)
        affine = torch.eye(4)
        affine[:3, :3] = rotations(torch.deg2rad(torch.tensor(25.0)) * (2 * draws[None, 8:11] - 1))[0] @ scale
        affine[:3, 3] = centre - 12
        monai = Affine(affine=affine, spatial_size=(16, 16, 16), padding_mode="zeros", image_only=True)
        theirs = torch.as_tensor(monai(volumes[sample]))
        # Where no neighbour lies outside.
        inner = torch.as_tensor(monai(torch.nn.functional.pad(torch.ones(1, 20, 20, 20), (2,) * 6)))[0] > 0.999
        (first, *_) = sampler.seen[sample]
        within = sampler.within(sample, volumes[sample].transpose(0, 1)[first], first.start)
        ours = sampler.between(sample, within, slice(None))
        assert inner.float().mean() > 0.4
        assert theirs[:, inner].std() > 0.1
        difference = (ours - theirs)[:, inner]
        assert float(difference.abs().max() if not smooth else difference.std()) < tolerance


def test_contrast_and_brightness_scale_about_the_mean_and_shift_by_the_range():
    view, changed = changed_by(contrast=1.3, brightness=0.1)
    factor, shift = 1.3 ** drawn_strength(1), 0.1 * drawn_strength(2)
    span = view.amax(dim=(2, 3, 4)) - view.amin(dim=(2, 3, 4))
    torch.testing.assert_close(changed.std(dim=(2, 3, 4)) / view.std(dim=(2, 3, 4)), factor, atol=1e-3, rtol=0)
    moved = (changed.mean(dim=(2, 3, 4)) - view.mean(dim=(2, 3, 4))) / span
    torch.testing.assert_close(moved, shift, atol=1e-3, rtol=0)


def test_noise_has_the_drawn_standard_deviation_as_monais():
    view, changed = changed_by(noise=0.5)
    wanted = 0.5 * drawn_strength(5).abs()
    added = changed - view
    torch.testing.assert_close(added.std(dim=(2, 3, 4)), wanted, atol=0.01, rtol=0.02)
    monai = RandGaussianNoise(prob=1.0, std=float(wanted.max()), sample_std=False)
    monai.set_random_state(0)
    theirs = torch.as_tensor(monai(view[0])) - view[0]
    loudest = added.flatten(2).flatten(0, 1)[wanted.flatten().argmax()]
    assert float(loudest.std()) == pytest.approx(float(theirs.std()), rel=0.03)
    assert float(loudest.abs().mean()) == pytest.approx(float(theirs.abs().mean()), rel=0.03)
    samples = added.flatten(2)
    assert float(torch.corrcoef(samples.flatten(0, 1)).fill_diagonal_(0).abs().max()) < 0.05


def test_the_bias_field_is_smooth_positive_and_of_the_asked_strength():
    """As MONAI's: multiplicative and smooth; the standard deviation of its logarithm is ours to set."""
    seeds = range(60)
    view = torch.rand(60, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    changed = change_intensity(
        view.clone(), torch.ones(60, 1, 16, 16, 16), seeds, Intensity(**{**NOTHING, "bias": 0.2})
    )
    low = view.amin(dim=(2, 3, 4), keepdim=True)
    usable = view > low + 0.2
    logarithm = torch.where(usable, ((changed - low) / (view - low)).clamp_min(1e-6).log(), torch.nan)
    knots = logarithm[..., ::15, ::15, ::15]
    assert float(knots[~knots.isnan()].std()) == pytest.approx(0.2, rel=0.1)
    step = (logarithm[:, :, 1:] - logarithm[:, :, :-1]).abs()
    assert float(step[~step.isnan()].quantile(0.99)) < 0.2


def test_effects_touch_only_the_sequences_they_were_drawn_for():
    view, brain = full_brain(), torch.ones(3, 1, 24, 24, 24)
    half = {**NOTHING, "probability": 0.5}
    for number, effect in enumerate(EFFECTS):
        value = {"gamma": 1.5, "contrast": 1.5, "low_resolution": 2.0, "gibbs": 0.5}.get(effect, 0.7)
        changed = change_intensity(view.clone(), brain, SEEDS, Intensity(**{**half, effect: value}))
        draws = uniforms(SEEDS, "intensity", (2, len(EFFECTS), 4))[:, :, number]
        applied, noticeable = draws[:, 0] < 0.5, (2 * draws[:, 1] - 1).abs() > 0.3
        assert (applied & noticeable).any()
        assert (~applied).any()
        differs = (changed - view).abs().amax(dim=(2, 3, 4)) > 1e-5
        assert not (differs & ~applied).any(), effect
        assert differs[applied & noticeable].all(), effect


def test_angles_that_would_turn_the_slices_are_refused():
    with pytest.raises(InputError, match=r"rotation 60.0 must lie in \[0, 45\]"):
        Geometry(flip=0.5, rotation=60.0, stretch=0.1)
