"""Figure 3 shows the numbers of its tables, says what is not estimable, and reads the differences honestly."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables
from neurorad.reporting.marker_figures import COMMON, UNCOMMON, auc_differences, auc_rows, mean_auc, verdict
from neurorad.reporting.registry import figure
from neurorad.reporting.theme import GREY, METHOD_COLOURS, NothingToDrawError, order_encoders

from .reading import estimates, legend, panel, points, texts, title

Z = 1.959964


def rows_of(study, endpoint: str, site: str) -> pd.DataFrame:
    probe = study.probe
    mine = probe[(probe["metric"] == "auc") & (probe["endpoint"] == endpoint) & (probe["site"] == site)]
    return mine[~mine["method"].isin(["random", "clinical"])]


def shown_as_written(axes, rows: pd.DataFrame) -> None:
    """Every row of the table is drawn once: value, interval, marker and fill of its objective, colour of its method."""
    known = rows[rows["value"].notna()]
    expected = pd.DataFrame(
        {
            "value": known["value"],
            "ci_low": known["ci_low"],
            "ci_high": known["ci_high"],
            "marker": known["objective"].map({"base": "o", "dro": "D", "none": "s"}),
            "filled": known["objective"] != "base",
            "colour": known["method"].map(METHOD_COLOURS).str.lower(),
        }
    )
    order = [*expected.columns[:3]]
    shown = estimates(axes)[list(expected.columns)].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(shown, expected.sort_values(order, ignore_index=True), check_dtype=False)


@pytest.mark.parametrize(("name", "markers"), [("fig3b_common_markers", COMMON), ("fig3c_uncommon_markers", UNCOMMON)])
def test_every_panel_shows_the_aucs_of_its_marker_and_site(drawn, study, name, markers):
    seen = 0
    for marker in markers:
        for site in sorted(study.probe["site"].unique()):
            axes = panel(drawn(name), f"{endpoints()[marker].label} · {site.upper()}")
            rows = rows_of(study, marker, site)
            shown_as_written(axes, rows)
            if len(rows):
                row = rows.iloc[0]
                assert title(axes).split("\n")[1] == f"n = {row['n']}, {row['n_positive']} positive"
                seen += len(rows)
    assert drawn(name).get_label().startswith(f"{seen} estimates, ")
    assert legend(drawn(name)) == ["base", "+DRO", "chance"]


def test_rows_from_top_to_bottom_are_the_methods_in_order(drawn):
    axes = panel(drawn("fig3b_common_markers"), "MGMT · CUIMC")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[::-1] == ["BYOL", "DINO", "MAE", "MoCo"]
    shown = estimates(axes).sort_values("y", ascending=False)
    assert shown["filled"].tolist() == [False, True] * 4
    assert shown["colour"].tolist() == [
        METHOD_COLOURS[m].lower() for m in ("byol", "dino", "mae", "moco") for _ in "bd"
    ]


def test_what_cannot_be_estimated_is_written_and_not_drawn(drawn):
    axes = panel(drawn("fig3c_uncommon_markers"), "TERT · CUIMC")
    assert texts(axes).count("not estimable") == 4
    assert points(axes) == []
    assert "n = 24, 3 positive" in title(axes)
    assert drawn("fig3c_uncommon_markers").get_label() == "168 estimates, 8 of them not estimable."


def test_one_encoder_that_cannot_be_estimated_leaves_the_others(study):
    wrong = (study.probe["encoder"] == "byol-dro-s0") & (study.probe["endpoint"] == "mgmt")
    study.probe.loc[wrong, ["value", "ci_low", "ci_high"]] = np.nan
    axes = panel(figure("fig3b_common_markers", study), "MGMT · CUIMC")
    assert texts(axes).count("not estimable") == 1
    assert len(estimates(axes)) == 7


def test_an_auc_without_an_interval_is_a_point_without_a_bar(study):
    study.probe[["ci_low", "ci_high"]] = np.nan
    shown = estimates(panel(figure("fig3b_common_markers", study), "MGMT · CUIMC"))
    assert len(shown) == 8
    assert shown["ci_low"].isna().all()


def test_a_marker_that_a_site_never_tested_says_so(drawn):
    axes = panel(drawn("fig3b_common_markers"), "1p/19q · UPENN-GBM")
    assert "no such label at this site" in texts(axes)
    assert points(axes) == []


def test_other_protocols_and_metrics_are_not_drawn(study, drawn):
    strange = study.probe.assign(value=0.99, protocol="combined")
    also = study.probe.assign(value=0.98, metric="balanced_accuracy")
    study.probe = pd.concat([strange, also, study.probe], ignore_index=True)
    axes = panel(figure("fig3b_common_markers", study), "MGMT · CUIMC")
    pd.testing.assert_frame_equal(estimates(axes), estimates(panel(drawn("fig3b_common_markers"), "MGMT · CUIMC")))


def test_every_point_and_bar_lies_within_the_axis(study):
    study.probe.loc[0, ["value", "ci_low", "ci_high"]] = [0.05, 0.0, 0.2]
    for axes in figure("fig3b_common_markers", study).axes:
        low, high = axes.get_xlim()
        shown = estimates(axes)[["value", "ci_low", "ci_high"]].to_numpy()
        assert ((shown >= low) & (shown <= high)).all()
        assert low >= -0.02
        assert high <= 1.02


def test_rivals_show_every_auc_as_a_dot_and_their_mean(drawn, study):
    axes = drawn("fig3a_rivals").axes[0]
    probe = study.probe[study.probe["metric"] == "auc"]
    complete = probe.groupby(["site", "endpoint"])["value"].transform(lambda values: values.notna().all())
    encoders = order_encoders(probe["encoder"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[::-1] == [
        *(f"{m} {o}" for m in ("BYOL", "DINO", "MAE", "MoCo") for o in ("base", "+DRO")),
        "random weights",
        "age + sex",
    ]
    means = estimates(axes).set_index("y")
    dots = {
        round(float(np.mean(line.get_ydata()))): line.get_xdata() for line in axes.lines if len(line.get_xdata()) > 2
    }
    for y, encoder in enumerate(reversed(encoders)):
        mine = probe[probe["encoder"] == encoder]
        assert np.allclose(np.sort(dots[y]), np.sort(mine["value"].dropna()))
        expected = mine[complete[mine.index]][["value", "ci_low", "ci_high"]].mean()
        assert np.allclose(means.loc[y, ["value", "ci_low", "ci_high"]].astype(float), expected)
    pairs = int(complete.sum() / len(encoders))
    assert axes.get_title(loc="left") == f"mean over {pairs} marker-site pairs estimable for all 10 encoders"


def test_an_encoder_without_any_auc_is_written_and_not_counted(study):
    study.probe.loc[study.probe["encoder"] == "mae-dro-s0", ["value", "ci_low", "ci_high"]] = np.nan
    axes = figure("fig3a_rivals", study).axes[0]
    assert texts(axes).count("not estimable") == 1
    assert axes.get_title(loc="left") == "mean over 31 marker-site pairs estimable for all 9 encoders"


def auc_table(values: dict[str, list[tuple[str, float, float, float]]]) -> pd.DataFrame:
    rows = [
        {"encoder": encoder, "site": "s", "endpoint": endpoint, "value": value, "ci_low": low, "ci_high": high}
        for encoder, listed in values.items()
        for endpoint, value, low, high in listed
    ]
    return pd.DataFrame(rows)


def test_the_mean_runs_over_the_pairs_that_every_encoder_has():
    table = auc_table(
        {
            "a": [("x", 0.6, 0.5, 0.7), ("y", 0.8, 0.7, 0.9), ("z", 0.99, 0.9, 1.0)],
            "b": [("x", 0.5, 0.4, 0.6), ("y", 0.7, 0.5, 0.9), ("z", np.nan, np.nan, np.nan)],
        }
    )
    means = mean_auc(table).set_index("encoder")
    assert means["pairs"].tolist() == [2, 2]
    assert np.allclose(means.loc["a", ["value", "ci_low", "ci_high"]].astype(float), [0.7, 0.6, 0.8])
    assert np.allclose(means.loc["b", ["value", "ci_low", "ci_high"]].astype(float), [0.6, 0.45, 0.75])


def test_an_auc_without_an_interval_widens_the_mean_by_the_widest():
    means = mean_auc(auc_table({"a": [("x", 0.6, 0.5, 0.7), ("y", 1.0, np.nan, np.nan)]})).iloc[0]
    assert (means["value"], means["ci_low"], means["ci_high"]) == pytest.approx((0.8, 0.25, 0.85))


def test_without_any_estimable_auc_there_is_no_mean():
    assert mean_auc(auc_table({"a": [("x", np.nan, np.nan, np.nan)]})).empty


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_the_interval_of_the_mean_is_never_narrower_than_the_true_one(pairs, seed):
    root = np.random.default_rng(seed).normal(0, 0.05, (pairs, pairs))
    covariance = root @ root.T
    half = Z * np.sqrt(np.diag(covariance))
    table = auc_table({"a": [(str(i), 0.7, 0.7 - h, 0.7 + h) for i, h in enumerate(half)]})
    drawn_half = np.ptp(mean_auc(table)[["ci_low", "ci_high"]].to_numpy()) / 2
    assert drawn_half >= Z * np.sqrt(covariance.mean()) - 1e-12


def test_the_interval_of_the_mean_is_exact_where_all_aucs_move_together():
    table = auc_table({"a": [(str(i), 0.7, 0.7 - Z * 0.04, 0.7 + Z * 0.04) for i in range(5)]})
    assert np.ptp(mean_auc(table)[["ci_low", "ci_high"]].to_numpy()) / 2 == pytest.approx(Z * 0.04)


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_the_interval_of_the_mean_covers_the_truth_in_a_simulation(together):
    random = np.random.default_rng(1)
    truth, sd = np.linspace(0.55, 0.8, 6), np.array([0.02, 0.03, 0.04, 0.05, 0.06, 0.07])
    covered = 0
    for _ in range(300):
        noise = np.sqrt(together) * random.normal() + np.sqrt(1 - together) * random.normal(size=6)
        value = truth + sd * noise
        table = auc_table(
            {"a": [(str(i), v, v - Z * s, v + Z * s) for i, (v, s) in enumerate(zip(value, sd, strict=True))]}
        )
        row = mean_auc(table).iloc[0]
        covered += row["ci_low"] <= truth.mean() <= row["ci_high"]
    assert covered / 300 >= 0.92


def test_a_table_without_aucs_of_the_protocol_has_nothing_to_draw(study):
    assert set(auc_rows(study.probe)["metric"]) == {"auc"}
    with pytest.raises(NothingToDrawError, match="probed leave one site out"):
        auc_rows(study.probe, "leave_one_site_out")


def test_only_other_markers_say_which_are_missing(study):
    study.probe = study.probe[study.probe["endpoint"] == "egfr"]
    picture = figure("fig3b_common_markers", study)
    assert "nothing to draw: no patient has a label of MGMT, IDH1, 1p/19q" in texts(picture)


def test_differences_are_those_of_the_table_filled_where_the_interval_leaves_out_0(drawn, study):
    picture = drawn("fig3d_differences")
    for site in study.comparison["site"].unique():
        rows = study.comparison[(study.comparison["site"] == site) & study.comparison["value"].notna()]
        shown = estimates(panel(picture, site.upper())).sort_values("value", ignore_index=True)
        rows = rows.sort_values("value", ignore_index=True)
        assert np.allclose(shown[["value", "ci_low", "ci_high"]], rows[["value", "ci_low", "ci_high"]])
        assert shown["filled"].tolist() == ((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).tolist()
        assert shown["colour"].tolist() == rows["method"].map(METHOD_COLOURS).str.lower().tolist()
    assert shown["filled"].any()
    assert legend(picture) == ["BYOL", "DINO", "MAE", "MoCo", "open: not significant at 5 %"]
    assert "not estimable" in texts(panel(picture, "CUIMC"))
    assert "no such label at this site" in texts(panel(picture, "UPENN-GBM"))


def test_a_difference_stands_in_the_row_of_its_marker(drawn, study):
    axes = panel(drawn("fig3d_differences"), "CUIMC")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    shown = estimates(axes)
    for marker in ("idh1", "mgmt", "grade"):
        here = shown[(shown["y"] - labels.index(endpoints()[marker].label)).abs() < 0.5]
        mine = study.comparison[(study.comparison["site"] == "cuimc") & (study.comparison["endpoint"] == marker)]
        assert np.allclose(np.sort(here["value"]), np.sort(mine["value"]))


def test_the_axis_of_the_differences_is_symmetric_about_0(drawn):
    low, high = panel(drawn("fig3d_differences"), "CUIMC").get_xlim()
    assert low == -high
    assert estimates(panel(drawn("fig3d_differences"), "CUIMC"))[["ci_low", "ci_high"]].abs().to_numpy().max() <= high


def test_only_the_differences_of_the_within_site_auc_are_drawn(study):
    more = [study.comparison.assign(protocol="combined"), study.comparison.assign(metric="c_index_difference")]
    joined = pd.concat([*more, study.comparison], ignore_index=True)
    pd.testing.assert_frame_equal(auc_differences(joined).reset_index(drop=True), study.comparison)
    with pytest.raises(NothingToDrawError):
        auc_differences(more[1])


def test_only_pooled_comparisons_are_drawn_where_there_is_no_other(study):
    study.comparison = study.comparison[study.comparison["site"] == "cuimc"].assign(site="all", protocol="combined")
    assert len(estimates(panel(figure("fig3d_differences", study), "all sites"))) == 40


def differences(better: int, worse: int, null: int, missing: int = 0) -> pd.DataFrame:
    signs = [1] * better + [-1] * worse + [0] * null + [np.nan] * missing
    value = 0.1 * np.array(signs, float)
    p = np.where(value == 0, 1.0, 0.01)
    return pd.DataFrame({"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05, "p": p})


def test_the_verdict_counts_every_comparison_once():
    text = verdict(differences(5, 3, 11, 2))
    assert "Of 21 comparisons" in text
    assert "above 0 in 5, below 0 in 3, and neither in 11; 2 could not be estimated." in text


NEITHER, FOR, AGAINST = "neither an advantage of +DRO nor a disadvantage", "speaks for +DRO", "speaks against +DRO"
UNDECIDED, NOTHING = "no difference that these data can show", "say nothing for or against"


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((0, 0, 40), {NEITHER}),
        ((1, 0, 40), {NEITHER}),
        # One of 24 on a side is what chance does in 46 of 100 studies without any effect.
        ((0, 1, 23), {NEITHER}),
        ((1, 0, 23), {NEITHER}),
        # P(X >= 3) is 0.022 and P(X >= 2) is 0.12 for X of 24 at 0.025 each.
        ((0, 2, 22), {NEITHER}),
        ((0, 3, 21), {AGAINST, UNDECIDED}),
        ((3, 0, 21), {FOR, UNDECIDED}),
        ((5, 5, 30), {NEITHER}),
        ((40, 0, 0), {FOR}),
        ((0, 40, 0), {AGAINST}),
        ((2, 12, 10), {AGAINST}),
        ((8, 2, 30), {FOR, UNDECIDED}),
        ((20, 5, 5), {FOR}),
        ((0, 0, 0, 9), {NOTHING}),
        ((0, 0, 0, 0), set()),
    ],
)
def test_the_verdict_is_honest(counts, says):
    text = verdict(differences(*counts))
    assert {sentence for sentence in (NEITHER, FOR, AGAINST, UNDECIDED, NOTHING) if sentence in text} == says


def test_an_interval_beside_0_counts_only_with_its_test():
    rows = differences(4, 0, 0).assign(p=[0.04, 0.2, 0.9, np.nan])
    assert "above 0 in 1, below 0 in 0, and neither in 3" in verdict(rows)


def test_the_verdict_gives_the_binomial_p_value_and_its_limit():
    p = sum(comb(24, k) * 0.025**k * 0.975 ** (24 - k) for k in range(3, 25))
    text = verdict(differences(0, 3, 21))
    assert f"p = {p:.3f}" in text and "they share patients" in text
    assert "p < 0.001" in verdict(differences(24, 0, 0))


def test_without_any_effect_the_verdict_rarely_takes_a_side():
    rng = np.random.default_rng(0)
    sides = rng.choice(3, size=(2000, 24), p=[0.025, 0.025, 0.95])
    said = [verdict(differences(int((s == 0).sum()), int((s == 1).sum()), int((s == 2).sum()))) for s in sides]
    assert np.mean(["speaks" in text for text in said]) < 0.05


def test_a_difference_without_an_interval_counts_as_not_estimated():
    text = verdict(differences(1, 0, 1).assign(ci_low=np.nan, ci_high=np.nan))
    assert "2 could not be estimated" in text
    assert "above 0 in 0" in text


def test_the_figure_of_differences_carries_the_verdict(drawn, study):
    assert drawn("fig3d_differences").get_label() == verdict(study.comparison)


def test_two_seeds_are_two_points_with_their_own_row_in_the_list_of_encoders(study):
    second = study.probe[study.probe["encoder"] == "byol-base-s0"].assign(encoder="byol-base-s1", seed=1)
    tables = Tables(probe=pd.concat([study.probe, second]))
    assert len(estimates(panel(figure("fig3b_common_markers", tables), "MGMT · CUIMC"))) == 9
    labels = [label.get_text() for label in figure("fig3a_rivals", tables).axes[0].get_yticklabels()]
    assert "BYOL base (seed 1)" in labels


def with_rivals(study, *names: str) -> None:
    """The study's tables with rivals that repeat the numbers of the random encoder."""
    probe = study.probe
    copies = [probe[probe["encoder"] == "random-s0"].assign(encoder=name) for name in names]
    study.probe = pd.concat([probe, *copies], ignore_index=True)


def test_a_rival_that_the_study_has_not_is_a_grey_row_with_its_reason(study):
    with_rivals(study, "intensity", "biomedclip")
    rows = [("intensity", "no", ""), ("biomedclip", "yes", ""), ("medblip", "", "its weights are not released")]
    study.rivals = pd.DataFrame(rows, columns=["encoder", "pretrained_elsewhere", "reason"])
    axes = figure("fig3a_rivals", study).axes[0]
    labels = {label.get_text(): label.get_color() for label in axes.get_yticklabels()}
    assert labels["MedBLIP"] == GREY != labels["BYOL base"]
    assert "its weights are not released" in texts(axes)
    assert "BiomedCLIP*" in labels and "intensity + volume" in labels
    assert "pretrained elsewhere" in " ".join(text.get_text() for text in axes.figure.texts)
    assert axes.get_title(loc="left").endswith("estimable for all 12 encoders")


def test_a_partial_rival_takes_no_pair_from_the_others_and_says_how_many_it_has(study):
    before = mean_auc(study.probe[study.probe["metric"] == "auc"]).set_index("encoder")
    with_rivals(study, "radiomics", "scratch-tuned-s0")
    probe = study.probe
    gone = (probe["encoder"] == "radiomics") & (probe["site"] == "cuimc")
    gone |= (probe["encoder"] == "scratch-tuned-s0") & (probe["endpoint"] != "idh1")
    study.probe = probe[~gone]
    means = mean_auc(study.probe[study.probe["metric"] == "auc"]).set_index("encoder")
    pd.testing.assert_frame_equal(means.loc[before.index], before)
    pairs = int(before["pairs"].max())
    shown = texts(figure("fig3a_rivals", study).axes[0])
    assert 0 < means.loc["scratch-tuned-s0", "pairs"] <= 3
    for name in ("radiomics", "scratch-tuned-s0"):
        assert f"{int(means.loc[name, 'pairs'])} of {pairs}" in shown


def test_the_paper_s_panels_show_the_study_s_own_encoders_alone(study):
    with_rivals(study, "intensity", "mine", "byol-base-combat-s0", "byol-dro-tuned-s0")
    labels = {
        label.get_text() for axes in figure("fig3b_common_markers", study).axes for label in axes.get_yticklabels()
    }
    assert labels - {""} == {"BYOL", "DINO", "MAE", "MoCo"}
