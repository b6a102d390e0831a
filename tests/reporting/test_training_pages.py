"""The training page of an encoder: what was logged, set against its base run, and what was not is said."""

import re
from urllib.parse import unquote_to_bytes

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import write_table
from neurorad.reporting.inputs import Tables
from neurorad.reporting.report import Parts, read_figure, report_html
from neurorad.reporting.theme import theme
from neurorad.reporting.training_pages import draw_page, draw_pages, weight_carriers

from .reading import legend, outside, panel, texts

GROUPS = ("brats-gli-pre", "brats-men", "cuimc")


def logged(encoder: str, shift: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Group k's loss is 2 - step / 100 + k / 10 + shift x k; all weight goes to the last group under `dro`."""
    steps = np.arange(0, 50, 10)
    history = pd.DataFrame(
        {
            **{"encoder": encoder, "step": steps, "loss": 2.1 - steps / 100, "learning_rate": 1e-4 * (50 - steps)},
            **{"effective_rank": 9.0 - steps / 10, "feature_spread": 0.3},
        }
    )
    rows = []
    for step in steps:
        last = step / 40 if "dro" in encoder else 1 / 3
        for code, group in enumerate(GROUPS):
            weight = last if code == 2 else (1 - last) / 2
            loss = 2 - step / 100 + code / 10 + shift * code
            rows.append({"encoder": encoder, "step": step, "group": group, "loss": loss, "weight": weight, "count": 3})
    return history, pd.DataFrame(rows)


@pytest.fixture
def tables() -> Tables:
    parts = [logged("byol-base-s0", 0.0), logged("byol-dro-s0", -0.25), logged("mae-dro-s1", 0.0)]
    history, groups = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    return Tables(history=history.sample(frac=1, random_state=0), groups=groups.sample(frac=1, random_state=0))


def page(encoder: str, tables: Tables):
    with theme():
        figure = draw_page(encoder, tables)
        figure.draw_without_rendering()
    return figure


def by_group(axes, tables: Tables, encoder: str, column: str) -> None:
    mine = tables.groups[tables.groups["encoder"] == encoder].sort_values("step")
    for line, (_, part) in zip(axes.lines, mine.groupby("group"), strict=False):
        assert np.array_equal(line.get_xydata(), part[["step", column]].to_numpy(float))


def test_losses_and_weights_are_those_of_the_log_and_the_base_run_is_dashed(tables):
    figure = page("byol-dro-s0", tables)
    by_group(panel(figure, "loss of each group"), tables, "byol-dro-s0", "loss")
    by_group(panel(figure, "weight of each group"), tables, "byol-dro-s0", "weight")
    base = panel(figure, "loss of each group").lines[len(GROUPS)]
    assert base.get_linestyle() == "--"
    assert base.get_ydata() == pytest.approx(2.1 - base.get_xdata() / 100)
    assert legend(figure) == [*GROUPS, "base run"]
    assert outside(figure) == []


def test_the_difference_from_the_base_run_is_the_planted_one(tables):
    lines = panel(page("byol-dro-s0", tables), "loss above the base run").lines
    for code, line in zip(range(len(GROUPS)), lines, strict=False):
        assert line.get_ydata() == pytest.approx([-0.25 * code] * 5)


def test_the_base_run_and_a_run_without_one_say_so(tables):
    assert "this is the base run" in texts(panel(page("byol-base-s0", tables), "loss above the base run"))
    alone = page("mae-dro-s1", tables)
    assert "no base run given" in texts(panel(alone, "loss above the base run"))
    assert "base run" not in legend(alone)


def test_groups_that_carry_weight_are_counted():
    rows = [(0, [0.25] * 4, 4.0), (1, [0.5, 0.5, 0, 0], 2.0), (2, [0, 0, 0, 1.0], 1.0)]
    table = pd.DataFrame(
        [{"step": step, "group": g, "weight": w} for step, weights, _ in rows for g, w in enumerate(weights)]
    )
    steps, carriers = weight_carriers(table)
    assert list(steps) == [0, 1, 2]
    assert carriers == pytest.approx([carried for *_, carried in rows])


def test_what_was_not_logged_is_said(tables):
    tables.groups = None
    tables.history = tables.history.drop(columns=["learning_rate", "feature_spread"])
    figure = page("byol-dro-s0", tables)
    assert texts(figure).count("no groups.csv given") == 3
    assert texts(figure).count("not logged") == 2


def test_the_command_writes_one_page_an_encoder_and_the_report_folds_them_in(tables, tmp_path):
    for name in ("history", "groups"):
        for encoder, part in getattr(tables, name).groupby("encoder"):
            write_table(tmp_path / encoder / f"{name}.csv", part.drop(columns="encoder"))
    files = {name: sorted(map(str, tmp_path.glob(f"*/{name}.csv"))) for name in ("history", "groups")}
    for folder in ("one", "two"):
        out = str(tmp_path / folder)
        main(["training-pages", "--out", out, "--history", *files["history"], "--groups", *files["groups"]])
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert made == [f"training_{encoder}.svg" for encoder in ("byol-base-s0", "byol-dro-s0", "mae-dro-s1")]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in made)
    figures = {name.removesuffix(".svg"): read_figure(tmp_path / "one" / name) for name in made}
    parts = Parts(figures=figures, tables={}, excluded=pd.DataFrame(), audit={"stamp": ""}, config="")
    text = report_html(parts).partition("<main")[2]
    chapter = text[text.index("How the encoders were trained") : text.index("Scans left out")]
    assert re.findall(r"<summary>(.*?)</summary>", chapter) == [
        *("Training of BYOL base", "Training of BYOL +DRO", "Training of MAE +DRO (seed 1)")
    ]
    for name in made:
        assert (tmp_path / "one" / name).read_bytes() in unquote_to_bytes(chapter)
    assert ">More</h2>" not in text


def test_pages_come_in_the_order_of_methods_and_objectives(tables):
    with theme():
        assert [name for name, _ in draw_pages(tables)] == ["byol-base-s0", "byol-dro-s0", "mae-dro-s1"]
