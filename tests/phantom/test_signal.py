"""Signal equations against closed forms, the receive field and the noise against their stated moments."""

import math

import numpy as np
import pytest

from neurorad.phantom.signal import (
    TISSUES,
    inversion_recovery,
    receive_field,
    rician,
    spin_echo,
    tissue_signals,
    with_contrast,
)

FLAIR = {"kind": "ir", "tr": 9000, "te": 120, "ti": 2450}
T1 = {"kind": "se", "tr": 550, "te": 12}
T2 = {"kind": "se", "tr": 4200, "te": 98}


def test_a_spin_echo_saturates_with_t1_and_decays_with_t2():
    assert spin_echo(0.8, 1000, 100, 1000 * math.log(2), 100 * math.log(4)) == pytest.approx(0.8 / 2 / 4)
    assert spin_echo(1, 1, 1e12, 1e6, 1) == pytest.approx(1)


def test_an_inversion_is_the_sum_of_two_recoveries():
    """Bloch: from -M(TR - TI recovered) the longitudinal magnetisation relaxes for TI; solved step by step."""
    pd, t1, t2, tr, te, ti = 0.7, 900.0, 80.0, 3000.0, 20.0, 700.0
    before = 1 - math.exp(-(tr - ti) / t1)  # saturated by the 90 degree pulse, TR - TI ago
    at_ti = 1 - (1 + before) * math.exp(-ti / t1)
    assert inversion_recovery(pd, t1, t2, tr, te, ti) == pytest.approx(pd * at_ti * math.exp(-te / t2))


@pytest.mark.parametrize("t1", [250.0, 1000.0, 4300.0])
def test_the_null_point_is_where_the_signal_changes_sign(t1):
    tr = 9000.0
    null = t1 * (math.log(2) - math.log1p(math.exp(-tr / t1)))
    assert inversion_recovery(1, t1, 1e9, tr, 0, null) == pytest.approx(0, abs=1e-12)
    assert inversion_recovery(1, t1, 1e9, tr, 0, 0.9 * null) < 0 < inversion_recovery(1, t1, 1e9, tr, 0, 1.1 * null)


def test_contrast_adds_rates_in_the_units_of_relaxivity():
    t1, t2 = with_contrast(1000, 100, 0.5, 4.2, 5.5)  # 1/s: 1 + 2.1 and 10 + 2.75
    assert t1 == pytest.approx(1000 / 3.1)
    assert t2 == pytest.approx(1000 / 12.75)
    assert with_contrast(1000, 100, 0, 4.2, 5.5) == pytest.approx((1000, 100))


@pytest.mark.parametrize("field", [1.5, 3.0])
@pytest.mark.parametrize("sequence", [T1, T2, FLAIR], ids=["t1", "t2", "flair"])
@pytest.mark.parametrize("contrast", [False, True])
def test_every_tissue_has_the_signal_of_its_constants(shipped, field, sequence, contrast):
    signals = tissue_signals(shipped, sequence, field, contrast, uptake=0.6, tumour_t1=1.44)
    assert set(signals) == set(shipped["tissues"]) >= set(TISSUES)
    for name, entry in shipped["tissues"].items():
        r1, r2 = 1000 / entry["t1"][field], 1000 / entry["t2"][field]  # 1/s
        if name == "tumour":
            r1, r2 = r1 / 1.44, r2 / 1.2
        if contrast:
            c = {"enhancing": 0.6, "vessel": 0.9, "gm": 0.035, "wm": 0.015, "muscle": 0.08}.get(name, 0)
            r1, r2 = r1 + 4.2 * c, r2 + 5.5 * c
        tr, te = sequence["tr"] / 1000, sequence["te"] / 1000
        inverted = 2 * math.exp(-sequence["ti"] / 1000 * r1) if "ti" in sequence else 0
        recovered = 1 - inverted + math.exp(-tr * r1) if inverted else 1 - math.exp(-tr * r1)
        assert signals[name] == pytest.approx(entry["pd"] * recovered * math.exp(-te * r2)), name


@pytest.mark.parametrize("scanner", ["siemens-3t", "siemens-3d", "ge-15t", "ge-3t", "philips-15t"])
def test_every_scanner_shows_the_contrasts_a_radiologist_expects(shipped, scanner):
    entry = shipped["scanners"][scanner]
    protocol = shipped["protocols"][entry["protocol"]]
    shown = {
        name: {
            tissue: abs(value)
            for tissue, value in tissue_signals(shipped, run, entry["field"], name == "t1c", 0.42, 1.3).items()
        }
        for name, run in protocol.items()
    }
    assert shown["t1n"]["wm"] > shown["t1n"]["gm"] > shown["t1n"]["csf"]
    assert shown["t2w"]["csf"] > shown["t2w"]["oedema"] > shown["t2w"]["gm"] > shown["t2w"]["wm"]
    assert shown["t2f"]["oedema"] > shown["t2f"]["gm"] > 3 * shown["t2f"]["csf"]
    assert shown["t1c"]["enhancing"] > 1.15 * shown["t1c"]["wm"]
    assert shown["t1n"]["enhancing"] < shown["t1n"]["wm"]
    assert shown["t1c"]["necrosis"] < shown["t1c"]["gm"]


def test_a_stronger_field_lengthens_t1_and_darkens_the_spin_echo(shipped):
    weak, strong = (tissue_signals(shipped, T1, field, False, 0.4, 1.0) for field in (1.5, 3.0))
    assert all(strong[name] < weak[name] for name in ("gm", "wm", "oedema", "tumour"))


@pytest.mark.parametrize("strength", [0.08, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_the_receive_field_has_the_stated_spread_and_is_smooth(strength, seed):
    profiles = receive_field((60, 70, 40), strength, np.random.default_rng(seed))
    log = np.log(np.asarray(profiles[0] * profiles[1] * profiles[2], float))
    assert log.shape == (60, 70, 40)
    assert log.std() == pytest.approx(strength, rel=1e-4)
    assert abs(log.mean()) < 0.1 * strength
    # Smooth: along every axis a polynomial of degree 7 leaves less than 3 % of the spread, and none is flat.
    for axis in range(3):
        line = np.log(profiles[axis].ravel().astype(float))
        x = np.linspace(-1, 1, len(line))
        rest = line - np.polynomial.Polynomial.fit(x, line, 7)(x)
        assert rest.std() < 0.03 * line.std()
        assert line.std() == pytest.approx(strength / math.sqrt(3), rel=1e-4)


def test_two_scans_have_two_receive_fields():
    one, other = (receive_field((20, 20, 20), 0.1, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert not np.allclose(one, other, atol=0.01)


@pytest.mark.parametrize("amplitude", [0.0, 0.5, 2.0, 10.0])
def test_noise_has_the_moments_of_a_rice_distribution(amplitude):
    sigma, number = 0.4, 200_000
    drawn = rician(np.full(number, amplitude, np.float32), sigma, np.random.default_rng(1)).astype(float)
    assert (drawn >= 0).all()
    assert (drawn**2).mean() == pytest.approx(amplitude**2 + 2 * sigma**2, rel=0.01)
    fourth = amplitude**4 + 8 * sigma**2 * amplitude**2 + 8 * sigma**4
    assert (drawn**4).mean() == pytest.approx(fourth, rel=0.02)
    if amplitude == 0:
        assert drawn.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
        assert drawn.var() == pytest.approx(sigma**2 * (2 - math.pi / 2), rel=0.02)
    if amplitude == 10:
        assert drawn.std() == pytest.approx(sigma, rel=0.02)


def test_without_noise_the_signal_is_its_magnitude():
    signal = np.array([-2.0, 0.0, 3.0], np.float32)
    np.testing.assert_array_equal(rician(signal, 0.0, np.random.default_rng(0)), [2, 0, 3])
