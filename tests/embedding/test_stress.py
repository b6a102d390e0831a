"""Shifted volumes: each is what it says, inside the brain alone, z-scored again, and the same for every encoder."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from neurorad import volumes
from neurorad.cli import main
from neurorad.embedding.stress import KINDS, LEVELS, embed_shifted, shifted, shifts, subsets
from neurorad.problems import InputError
from neurorad.volumes import SEQUENCES

SPACING = 2.0


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 20, 18)), indexing="ij"))
    brain = (grid**2).sum(axis=0) < 0.7
    found = np.zeros((4, *brain.shape), dtype=np.float16)
    for channel in range(4):
        values = gaussian_filter(random.normal(size=brain.shape), 1.5)[brain]
        found[channel, brain] = (values - values.mean()) / values.std()
    return found


def made(volume, kind, level, seed: int = 0) -> np.ndarray:
    return shifted(volume, kind, str(level), SPACING, np.random.default_rng(seed))


def test_the_subsets_are_fifteen_and_the_whole_is_the_first():
    assert len(subsets()) == len(set(subsets())) == 15 and subsets()[0] == SEQUENCES
    wanted = list(shifts(KINDS, [1, 2, 3]))
    assert len(wanted) == 4 * 3 + 14 and ("missing", "t1n+t1c+t2w+t2f") not in wanted
    assert list(shifts(["blur"], [2])) == [("blur", "2")]
    with pytest.raises(InputError, match="unknown shift 'fog'; known: noise, bias"):
        list(shifts(["fog"], [1]))
    with pytest.raises(InputError, match="--severities 4: must be 1, 2 or 3"):
        list(shifts(["noise"], [4]))


@pytest.mark.parametrize("kind", list(LEVELS))
def test_shifts_stay_in_the_brain_are_standardised_and_grow(volume, kind):
    brain = (volume != 0).any(axis=0)
    likeness = []
    for level in (1, 2, 3):
        new = made(volume, kind, level)
        assert new.dtype == np.float32 and (new[:, ~brain] == 0).all()
        for channel in range(4):
            inside = new[channel, brain]
            assert abs(inside.mean()) < 1e-5 and inside.std() == pytest.approx(1, abs=1e-5)
        likeness.append(np.mean([np.corrcoef(new[c, brain], volume[c, brain])[0, 1] for c in range(4)]))
    assert 1 > likeness[0] > likeness[1] > likeness[2] > 0.2


def test_noise_has_the_planted_strength_and_gamma_keeps_the_order(volume):
    brain = (volume != 0).any(axis=0)
    new = made(volume, "noise", 3)[0, brain]
    r = np.corrcoef(new, volume[0, brain])[0, 1]
    assert r == pytest.approx(1 / np.sqrt(1 + LEVELS["noise"][2] ** 2), abs=0.03)
    old, new = volume[0, brain].astype(float), made(volume, "gamma", 2)[0, brain]
    light = (old - old.min()) / np.ptp(old)
    expected = light ** LEVELS["gamma"][1]
    np.testing.assert_allclose(new, (expected - expected.mean()) / expected.std(), atol=1e-4)


def test_blur_is_of_the_brain_alone(volume):
    brain = (volume != 0).any(axis=0)
    ones = np.where(brain, 1.0, 0.0) * np.linspace(1, 2, brain.shape[2])
    steady = np.stack([ones] * 4)
    new = made(steady, "blur", 1)
    # Were the dark background blurred in, the rim would be darker than the middle: the ramp stays a ramp.
    assert np.corrcoef(new[0, brain], ones[brain])[0, 1] > 0.995


def test_missing_sequences_are_zero_and_the_others_untouched(volume):
    new = made(volume, "missing", "t1c+t2f")
    assert (new[[0, 2]] == 0).all()
    np.testing.assert_array_equal(new[[1, 3]], volume[[1, 3]].astype(np.float32))


def test_an_absent_sequence_stays_absent_and_a_constant_one_becomes_zero(volume):
    gone = volume.copy()
    gone[2] = 0
    brain = (volume != 0).any(axis=0)
    gone[3, brain] = 1
    for kind in LEVELS:
        new = made(gone, kind, 1)
        assert (new[2] == 0).all() and np.isfinite(new).all()


class Means(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x.mean(dim=(2, 3, 4)), (x**2).mean(dim=(2, 3, 4)), (x**3).mean(dim=(2, 3, 4))], dim=1)


def test_every_scan_is_embedded_under_every_shift_and_noise_depends_on_the_scan_alone(volume, tmp_path):
    contract = {"spacing_mm": SPACING}
    rows = []
    for i in range(2):
        path = tmp_path / f"s{i}.b2nd"
        digest = volumes.save(path, np.roll(volume, i, axis=0), {"preprocessing": contract})
        rows.append(
            {"cohort": "a", "scan": f"s{i}", "patient": f"p{i}", "session": "1", "volume": str(path)}
            | {"sha256": digest}
        )
    table, wanted = pd.DataFrame(rows), list(shifts(["noise", "missing"], [1, 3]))
    one = embed_shifted(Means(), table, contract, torch.device("cpu"), wanted, 0)
    assert len(one) == 2 * 16 and one.groupby("scan").size().eq(16).all()
    assert list(one.columns[:6]) == ["cohort", "scan", "patient", "session", "shift", "level"]
    pd.testing.assert_frame_equal(one, embed_shifted(Means(), table, contract, torch.device("cpu"), wanted, 0))
    alone = embed_shifted(Means(), table.iloc[1:].reset_index(drop=True), contract, torch.device("cpu"), wanted[:1], 0)
    mine = one[(one["scan"] == "s1") & (one["shift"] == "noise") & (one["level"] == "1")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, mine)
    other = embed_shifted(Means(), table, contract, torch.device("cpu"), wanted, 1)
    noisy = one["shift"] == "noise"
    assert (one.loc[noisy, "e8"] != other.loc[noisy, "e8"]).all()
    assert (one.loc[~noisy, "e8"] == other.loc[~noisy, "e8"]).all()


def test_a_wrong_shift_is_refused_before_anything_is_read(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(
            [
                "embed-shifted",
                "--encoder",
                str(tmp_path),
                "--volumes",
                "none.tsv",
                "--shifts",
                "fog",
                "--out",
                "x.parquet",
            ]
        )
    assert "unknown shift 'fog'" in capsys.readouterr().err
