"""Ranking within a cohort, the pictures, and the QC page in headless Chromium, also with 1,500 scans."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Picture

from neurorad.cli import main
from neurorad.files import write_table
from neurorad.imaging.pictures import ATLAS, MASK, MOSAIC, PLANES, sheet
from neurorad.imaging.qc import NUMBERS, OUTLIER_MAD, beyond_limits, deviations, numbers, page
from neurorad.imaging.verdicts import NO_VERDICTS, read_verdicts
from neurorad.problems import InputError
from neurorad.volumes import save
from tests.browser import CHROMIUM, Page

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")
SHAPE = (24, 32, 20)


def brain(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.7
    return np.where(inside, np.random.default_rng(seed).normal(size=(4, *shape)), 0).astype(np.float32)


def pictures(voxels: np.ndarray) -> dict[str, bytes]:
    before = [np.take(voxels, [n // 2], axis=axis) for axis, n in enumerate(voxels.shape[1:], start=1)]
    return sheet(voxels, before, np.abs(voxels[0]))


def cohort(folder, scans: int, **columns) -> pd.DataFrame:
    """An index of volumes that share one picture; every number normal."""
    folder.mkdir(exist_ok=True)
    made = pictures(brain())
    random = np.random.default_rng(0)
    rows = []
    for k in range(scans):
        path = folder / f"s{k:04d}.b2nd"
        for suffix, content in made.items():
            path.with_suffix(suffix).write_bytes(content)
        values = {
            "brain_ml": random.normal(1400, 60),
            "atlas_dice": random.normal(0.94, 0.004),
            "cjv": random.normal(0.5, 0.02),
        }
        rows.append(
            {
                "cohort": "a",
                "scan": f"s{k:04d}",
                "volume": str(path),
                "sha256": f"{k:064x}",
                "status": "ok",
                "reason": "",
                **values,
            }
        )
    return pd.DataFrame(rows).assign(**columns)


def away(table: pd.DataFrame) -> pd.DataFrame:
    return deviations(numbers(table))


def test_a_deviation_is_in_scaled_mads_towards_the_bad_side():
    values = pd.DataFrame(
        {
            "cjv": [1.0, 2, 3, 4, 5],
            "atlas_dice": [0.90, 0.91, 0.92, 0.93, 0.94],
            "brain_ml": [1200, 1300, 1400, 1500, 1600],
        }
    )
    found = away(values)
    assert found["cjv"].tolist() == pytest.approx(list(np.array([-2, -1, 0, 1, 2]) / 1.4826))
    assert found["atlas_dice"].tolist() == pytest.approx(list(np.array([2, 1, 0, -1, -2]) / 1.4826))
    assert found["brain_ml"].tolist() == pytest.approx(list(np.array([2, 1, 0, 1, 2]) / 1.4826))


def test_a_planted_outlier_is_flagged_and_its_good_side_is_not(tmp_path):
    table = cohort(tmp_path, 40)
    table.loc[[3, 4], "cjv"] = [0.9, 0.1]
    flagged = away(table)["cjv"] > OUTLIER_MAD
    assert flagged[flagged].index.tolist() == [3]


def test_too_few_or_equal_numbers_are_not_ranked_but_limits_hold(tmp_path):
    few = cohort(tmp_path, 4)
    few.loc[0, "brain_ml"] = 5000
    assert away(few).isna().all(axis=None)
    assert beyond_limits(numbers(few))["brain_ml"].tolist() == [True, False, False, False]
    equal = cohort(tmp_path, 10, mask_parts=1)
    assert away(equal)["mask_parts"].isna().all()


def test_a_gain_is_after_minus_before_and_a_loss_flags(tmp_path):
    table = cohort(tmp_path, 2, t2w_similarity=[1.2, 1.2], t2w_similarity_before=[1.1, 1.3])
    assert numbers(table)["t2w_gain"].tolist() == pytest.approx([0.1, -0.1])
    assert beyond_limits(numbers(table))["t2w_gain"].tolist() == [False, True]


def test_the_sheet_has_both_layers_on_one_raster_and_no_text_chunk():
    made = pictures(brain(shape=(160, 192, 160)))
    grey, marks = (Picture.open(io.BytesIO(made[suffix])) for suffix in (".qc.webp", ".qc.png"))
    assert grey.size == marks.size == ((MOSAIC + 2 * PLANES) * 96, 5 * 96)
    colours = {colour for _, colour in marks.convert("RGBA").getcolors()}
    assert colours == {(0, 0, 0, 0), (*MASK, 255), (*ATLAS, 255)}
    assert not grey.info.get("exif") and not marks.info.keys() & {"exif", "Software"}
    assert not re.search(rb"tEXt|iTXt|zTXt|eXIf|tIME", made[".qc.png"])


def test_outlines_lie_around_the_brain_where_the_sheet_shows_it():
    voxels = brain()
    made = pictures(voxels)
    grey = np.asarray(Picture.open(io.BytesIO(made[".qc.webp"])).convert("L"))
    marks = np.asarray(Picture.open(io.BytesIO(made[".qc.png"])))
    size = max(SHAPE)
    axial_grey, axial_mark = grey[:size, 2 * size : 3 * size] > 30, marks[:size, 2 * size : 3 * size] == 1
    from scipy.ndimage import binary_dilation, binary_fill_holes

    # WebP loses a little at edges, so within a pixel.
    assert axial_mark.any() and not (axial_mark & ~binary_dilation(axial_grey, iterations=3)).any()
    assert not (axial_grey & ~binary_dilation(binary_fill_holes(axial_mark), iterations=2)).any()


def test_a_volume_without_its_pictures_is_an_error_that_says_what_to_do(tmp_path):
    table = cohort(tmp_path, 2)
    (tmp_path / "s0001.qc.png").unlink()
    with pytest.raises(InputError, match=r"s0001\.b2nd: no picture .* remove the index of its shard"):
        page(table, NO_VERDICTS)


def test_view_writes_a_picture_and_outlines_the_tumour(tmp_path):
    save(tmp_path / "s.b2nd", brain(), {})
    main(["view", str(tmp_path / "s.b2nd"), "--out", str(tmp_path / "plain.png")])
    assert Picture.open(tmp_path / "plain.png").size == (8 * 32, 4 * 32)
    tumour = np.zeros(SHAPE, np.uint8)
    tumour[10:14, 12:20, 8:12] = 1
    np.save(tmp_path / "s.tumour.npy", tumour)
    main(["view", str(tmp_path / "s.b2nd"), "--out", str(tmp_path / "marked.png")])
    coloured = (np.asarray(Picture.open(tmp_path / "marked.png").convert("RGB")) == MASK).all(axis=2)
    assert coloured.sum() >= 4 * 24


def test_view_of_no_volume_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["view", str(tmp_path / "none.b2nd"), "--out", str(tmp_path / "x.png")])
    assert "give the .b2nd file of a scan" in capsys.readouterr().err


def written(folder, table: pd.DataFrame, *flags: str):
    write_table(folder / "volumes.tsv", table)
    main(["qc", "--volumes", str(folder / "volumes.tsv"), "--out", str(folder / "qc.html"), *flags])
    return folder / "qc.html"


def test_the_page_needs_no_network(tmp_path):
    text = written(tmp_path, cohort(tmp_path, 3)).read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|src=", text)


@needs_chromium
def test_on_the_page_flagged_scans_come_first_keys_step_and_verdicts_are_exported(tmp_path):
    table = cohort(tmp_path, 30)
    table.loc[7, "cjv"], table.loc[9, "brain_ml"] = 0.9, 2600
    lost = {
        "cohort": "a",
        "scan": "<b>lost",
        "volume": "",
        "sha256": "",
        "status": "excluded",
        "reason": "t1c: 1 < 2 & </script>",
    }
    table = pd.concat([table, pd.DataFrame([lost])], ignore_index=True)
    before = tmp_path / "before.tsv"
    before.write_text(
        "scan\tverdict\tcomment\twho\twhen\tsha256\n"
        + f"s0000\tfail\tghosts\tXY\t2026-01-02\t{'0' * 64}\n"
        + "s0001\tpass\t\tXY\t2026-01-02\told\n"
    )
    path = written(tmp_path, table, "--verdicts", str(before))
    with Page(tmp_path / "profile") as browser:
        browser.open(path)
        assert browser.js("[...document.querySelectorAll('.scan .name')].slice(0, 2).map((n) => n.textContent)") == [
            "s0009",
            "s0007",
        ]
        assert browser.js("document.querySelector('#excluded p').textContent") == "<b>lost t1c: 1 < 2 & </script>"
        assert browser.js("document.querySelector('tr.beyond').textContent").startswith("brain volume, ml2600")
        browser.press("p")
        assert "initials" in browser.js("at('said').textContent")
        browser.js("at('who').value = 'AB'; document.activeElement.blur()")
        browser.press("p", "j", "f", "c")
        browser.js("at('comment').value = 'tab\\there'; at('comment').dispatchEvent(new Event('change'))")
        browser.press("Escape")
        assert browser.js("at('name').textContent") == "s0007"
        assert "2 not yet in the study" in browser.js("at('unsaved').textContent")
        exported = browser.js("table()")
        # What was drawn: some grey in the mosaic, another picture before registration, none without outlines lost.
        assert browser.js(
            "at('mosaic').getContext('2d').getImageData(0, 0, 99, 99).data.some((v, i) => i % 4 < 3 && v > 50)"
        )
        browser.press("b")
        browser.wait("at('stage-before').className === 'on'")
        browser.js("at('sort').value = '1'; at('sort').onchange({ target: at('sort') })")
        assert browser.js("document.querySelector('.scan .name').textContent") == "s0000"
        browser.press("k", "k", "k", "k", "k", "k", "k", "k", "k", "k")
        assert browser.js("at('said').textContent") == "XY, 2026-01-02"
        browser.press("j")
        assert "earlier volume: look again" in browser.js("at('said').textContent")
        browser.open(path)
        assert browser.js("document.querySelectorAll('.badge.pass').length") == 2, "edits outlive the page"
    (tmp_path / "after.tsv").write_text(exported, encoding="utf-8")
    again = read_verdicts(tmp_path / "after.tsv").set_index("scan")
    assert again["verdict"].to_dict() == {"s0000": "fail", "s0001": "pass", "s0007": "fail", "s0009": "pass"}
    assert again.loc["s0007", ["comment", "who", "sha256"]].tolist() == ["tab here", "AB", f"{7:064x}"]


@needs_chromium
def test_a_page_of_1500_scans_is_small_enough_opens_at_once_and_steps_at_once(tmp_path):
    table = cohort(tmp_path, 1500)
    # A 1 mm volume's picture is of this size (42 KB for a patient of BraTS 2021).
    noise = np.random.default_rng(0)
    picture = Picture.fromarray((noise.normal(128, 40, (60, 168)).clip(0, 255)).astype(np.uint8)).resize((1344, 480))
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=70)
    for volume in table["volume"]:
        with open(volume.replace(".b2nd", ".qc.webp"), "wb") as file:
            file.write(stream.getvalue())
    path = written(tmp_path, table)
    assert 35_000 < len(stream.getvalue()) < 60_000 and path.stat().st_size < 120e6
    with Page(tmp_path / "profile") as browser:
        seconds = browser.open(path)
        print(f"{path.stat().st_size / 1e6:.0f} MB open in {seconds:.2f} s")
        assert seconds < 20
        assert browser.js("document.querySelectorAll('.scan').length") == 1500
        browser.wait("document.readyState === 'complete'")
        assert browser.js("urls.size") < 60, "pictures of scans far from the window are not decoded"
        took = browser.js(
            "(() => { const t = performance.now(); at('sort').value = '2'; arrange(); return performance.now() - t; })()"
        )
        assert took < 3000
        browser.press(*"j" * 20)
        assert browser.js("at('place').textContent").endswith("of 1500")
        browser.js("at('list').scrollTop = 1e6")
        browser.wait("document.querySelectorAll('.thumb[style*=blob]').length > 0")


def test_every_number_has_a_label_and_a_bad_side():
    assert {number.bad for number in NUMBERS.values()} == {"both", "high", "low"}
    assert len({number.label for number in NUMBERS.values()}) == len(NUMBERS)
