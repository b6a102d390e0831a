"""Figure 6: the maps of each patient over the slice, with the tumour's outline and its share of the map."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet

from neurorad.reporting.explanation_figures import COUNTER, EVIDENCE, EVIDENCE_LEVELS, OUTLINE
from neurorad.reporting.registry import figure
from neurorad.reporting.theme import GREY, theme

from .reading import outside, overlapping, texts, title


def panels(picture) -> list:
    return [axes for axes in picture.axes if axes.images]


def outlines(axes, colour: str = OUTLINE) -> list:
    contours = [child for child in axes.get_children() if isinstance(child, ContourSet)]
    return [contour for contour in contours if to_hex(contour.get_edgecolor()[0]).lower() == colour.lower()]


def of(maps: dict, encoder: str, endpoint: str = "idh1") -> dict:
    return {**maps, "encoder": np.array(encoder), "endpoint": np.array(endpoint)}


def test_every_patient_has_the_slice_and_over_it_the_map(drawn, study):
    (maps,) = study.maps
    shown = panels(drawn("fig6a_heat_maps"))
    assert len(shown) == 4
    for i, axes in enumerate(shown):
        picture, heat = axes.images
        brain = maps["t2f"][i].astype(float) != 0
        assert np.array_equal(np.asarray(picture.get_array()).T[brain], maps["t2f"][i].astype(float)[brain])
        plane = maps["map_plane"][i].astype(float)
        assert np.array_equal(np.asarray(heat.get_array()).T, plane)
        assert heat.get_clim() == (0, 1)
        assert np.allclose(heat.get_alpha().T, np.clip(1.2 * plane, 0, 0.65))


def test_the_tumour_is_outlined_where_there_is_one(drawn):
    assert [len(outlines(axes)) for axes in panels(drawn("fig6a_heat_maps"))] == [1, 1, 1, 0]


def test_evidence_against_is_outlined_where_it_is_strong(drawn, study):
    assert (study.maps[0]["against_plane"].max(axis=(1, 2)) > 0.5).tolist() == [False, True, False, False]
    assert [len(outlines(axes, COUNTER)) for axes in panels(drawn("fig6a_heat_maps"))] == [0, 1, 0, 0]


def test_the_outline_runs_around_the_mask(drawn, study):
    (outline,) = outlines(panels(drawn("fig6a_heat_maps"))[0])
    mask = study.maps[0]["tumour"][0]
    edge = outline.get_paths()[0].vertices
    inside = np.argwhere(mask)
    assert np.allclose(edge.min(axis=0), inside.min(axis=0) - 0.5)
    assert np.allclose(edge.max(axis=0), inside.max(axis=0) + 0.5)


def test_titles_say_site_label_score_and_agreement(drawn):
    assert [title(axes) for axes in panels(drawn("fig6a_heat_maps"))] == [
        "UCSF-PDGM, positive, score 0.97\nin tumour 42% (centre prior 5%)",
        "UPENN-GBM, positive, score 0.91\nin tumour 31% (centre prior 6%)",
        "CUIMC, negative, score 0.12\nin tumour 8% (centre prior 4%)",
        "CUIMC, negative, score 0.04\nmass in tumour not estimable",
    ]
    assert panels(drawn("fig6a_heat_maps"))[3].title.get_color() == GREY


def test_a_scan_that_the_agreement_does_not_list_is_not_estimable(study):
    study.agreement = study.agreement.assign(encoder="mae-dro-s0")
    said = [title(axes).split("\n")[1] for axes in panels(figure("fig6a_heat_maps", study))]
    assert said == ["mass in tumour not estimable"] * 4


def test_without_the_table_no_agreement_is_claimed(study):
    study.agreement = None
    assert all(title(axes).endswith("\n") for axes in panels(figure("fig6a_heat_maps", study)))


def test_rows_are_encoders_in_their_order_and_endpoints_by_name(study):
    (maps,) = study.maps
    study.maps = [
        of(maps, "mae-dro-s0"),
        of(maps, "byol-dro-s0", "os"),
        of(maps, "byol-dro-s0"),
        of(maps, "byol-base-s0"),
    ]
    expected = ["BYOL base\nIDH1", "BYOL +DRO\nIDH1", "MAE +DRO\nIDH1"]
    contours = ["BYOL base\nIDH1", "BYOL +DRO\nIDH1", "BYOL +DRO\nRisk of death"]
    for _ in range(2):
        assert [axes.get_ylabel() for axes in panels(figure("fig6b_contours", study))[::4]] == contours
        assert [axes.get_ylabel() for axes in panels(figure("fig6a_heat_maps", study))[::4]] == expected
        study.maps = study.maps[::-1]


def test_drawing_leaves_the_tables_as_they_were(study):
    (maps,) = study.maps
    study.maps = [of(maps, "mae-dro-s0"), of(maps, "byol-dro-s0")]
    figure("fig6a_heat_maps", study)
    assert [str(part["encoder"]) for part in study.maps] == ["mae-dro-s0", "byol-dro-s0"]


def test_eight_encoders_and_four_patients_fit(study):
    (maps,) = study.maps
    encoders = list(study.history["encoder"].unique())
    study.maps = [of(maps, encoder) for encoder in encoders]
    study.agreement = pd.concat([study.agreement.assign(encoder=encoder) for encoder in encoders])
    picture = figure("fig6a_heat_maps", study)
    with theme():
        picture.draw_without_rendering()
    assert len(panels(picture)) == 32
    assert outside(picture) == []
    assert overlapping(picture) == []
    assert picture.get_label().startswith("8 probes, 32 maps")


def test_a_probe_with_fewer_patients_leaves_its_last_places_empty(study):
    (maps,) = study.maps
    per_patient = [key for key, value in maps.items() if value.ndim and len(value) == 4]
    study.maps = [of(maps, "byol-dro-s0"), {**of(maps, "mae-dro-s0"), **{key: maps[key][:2] for key in per_patient}}]
    picture = figure("fig6a_heat_maps", study)
    assert len(panels(picture)) == 6
    assert picture.get_label().startswith("2 probes, 6 maps")


def test_a_probe_that_could_not_be_explained_is_left_out(study):
    nobody = {**{k: np.array("x") for k in ("encoder", "endpoint", "layer")}, "patient": np.array([], dtype=str)}
    study.maps = [nobody, *study.maps]
    assert len(panels(figure("fig6a_heat_maps", study))) == 4
    study.maps = [nobody]
    assert "nothing to draw: no probe could be explained" in texts(figure("fig6a_heat_maps", study))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_or_constant_slice_is_drawn_without_a_warning(study, value, recwarn):
    (maps,) = study.maps
    study.maps = [{**maps, "t2f": np.full_like(maps["t2f"], value)}]
    picture = figure("fig6a_heat_maps", study)
    with theme():
        picture.draw_without_rendering()
    assert len(panels(picture)) == 4
    assert [str(warning.message) for warning in recwarn] == []


def test_contours_follow_the_evidence_and_titles_say_the_prediction(study):
    study.maps = [{**study.maps[0], "score": np.array([0.97, -0.5, 0.12, -0.04])}]
    shown = panels(figure("fig6b_contours", study))
    assert [title(axes).split("\n")[1] for axes in shown] == [
        f"predicted: {word}" for word in ("positive", "negative") * 2
    ]
    assert len(shown) == 4
    for i, axes in enumerate(shown):
        (evidence,) = outlines(axes, EVIDENCE)
        plane = study.maps[0]["map_plane"][i].astype(float)
        levels = [level for level in EVIDENCE_LEVELS if level < plane.max()]
        assert len(levels) >= 2
        for level, path in zip(levels, evidence.get_paths(), strict=True):
            x, y = path.vertices[len(path.vertices) // 2]
            near = plane[int(x) : int(x) + 2, int(y) : int(y) + 2]
            assert near.min() <= level <= near.max()
        assert len(outlines(axes, OUTLINE)) == (1 if i < 3 else 0)


def test_a_risk_is_said_as_a_risk(study):
    maps = {**of(study.maps[0], "byol-dro-s0", "os"), "status": np.array(["died at 90 d"] * 4)}
    study.maps = [{**maps, "score": np.array([1.2, 0.5, -0.5, -1.0])}]
    said = [title(axes) for axes in panels(figure("fig6b_contours", study))]
    assert said[0] == "UCSF-PDGM, died at 90 d, score 1.20\npredicted: risk above the median"
    assert said[3].endswith("predicted: risk below the median")
    picture = figure("fig6b_contours", study)
    with theme():
        picture.draw_without_rendering()
    assert outside(picture) == [] and overlapping(picture) == []
