"""figure, table and report on files, as the workflow calls them; a mistake is one line and exit status 2."""

import re

import numpy as np
import pandas as pd
import pytest

from neurorad.cli import main
from neurorad.files import read_table, sha256, write_json, write_table
from neurorad.reporting.inputs import ENCODER_IN_FOLDER, SOURCES
from neurorad.reporting.numbers import rows_behind
from neurorad.reporting.registry import FIGURES, caption
from neurorad.reporting.report import read_figure
from neurorad.reporting.tables import TABLES, table


def write_study(tables, folder) -> dict[str, list[str]]:
    """Every table as files in the way its stage writes them; flag -> paths."""
    files: dict[str, list[str]] = {}
    for name in SOURCES:
        frame = getattr(tables, name)
        if frame is None:
            continue
        key = "encoder" if "encoder" in frame and name not in ("comparison", "agreement") else "cohort"
        split = list(frame.groupby(key)) if key in frame and name != "manifest" else [("all", frame)]
        for part, rows in split:
            path = folder / name / str(part)
            if name in ENCODER_IN_FOLDER:
                path, rows = path / f"{name}.csv", rows.drop(columns="encoder")
            else:
                path = path.with_name(f"{part}.tsv" if key == "cohort" and "metric" not in frame else f"{part}.parquet")
            write_table(path, rows)
            files.setdefault(name, []).append(str(path))
    np.savez_compressed(folder / "maps.npz", **tables.maps[0])
    write_json(folder / "audit.json", tables.audit)
    return {**files, "maps": [str(folder / "maps.npz")], "audit": [str(folder / "audit.json")]}


def flags(files: dict[str, list[str]], *names: str) -> list[str]:
    return [word for name in names for word in (f"--{name}", *files[name])]


@pytest.fixture
def files(study, tmp_path) -> dict[str, list[str]]:
    return write_study(study, tmp_path)


def error_of(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["fig1_flow", "fig2_training", "fig4a_survival", "fig4c_sites", "fig6a_heat_maps"])
def test_a_figure_of_files_is_the_figure_of_the_tables(name, written, study, files, tmp_path):
    stem = tmp_path / "new" / name
    entry = FIGURES[name]
    main(["figure", name, "--out", str(stem), *flags(files, *entry.needs, *entry.also, "audit")])
    assert stem.with_suffix(".png").read_bytes() == (written / f"{name}.png").read_bytes()
    read = read_figure(stem.with_suffix(".svg"))
    drawn = re.sub(rb"\n *<dc:source>.*?</dc:source>", b"", read.svg, flags=re.DOTALL)
    expected = read_figure(written / f"{name}.svg")
    # Where the figure's own label names no patients, the command adds on how many each number rests.
    added = read.description.removeprefix(expected.description)
    assert not added or re.fullmatch(r" Each number rests on \d+(–\d+)? patients\.", added)
    assert drawn.replace(added.encode(), b"") == expected.svg
    # It tells what it was made of, and its numbers lie beside it.
    assert read.made["figure"] == name and re.fullmatch(r"[0-9a-f]{12}", read.made["code"])
    assert {flag for flag, _, _ in read.made["inputs"]} == {*entry.needs, *entry.also, "audit"}
    for flag, shown, digest in read.made["inputs"]:
        assert shown.startswith("…/") and str(tmp_path) not in shown
        given = files[flag] if isinstance(files[flag], list) else [files[flag]]
        assert digest in {sha256(path) for path in given}
    rows = read_table(stem.with_suffix(".csv"))
    assert len(rows) == len(rows_behind(name, entry.needs, study))


@pytest.mark.parametrize("name", list(TABLES))
def test_a_table_is_written_as_csv(name, study, files, tmp_path):
    out = tmp_path / "new" / f"{name}.csv"
    main(["table", name, "--out", str(out), *flags(files, *TABLES[name][1])])
    expected = table(name, study)
    made = read_table(out)
    # Which plan a number belongs to is added to every table.
    role = ["analysis"] if {"endpoint", "metric"} <= {*expected.columns} else []
    assert list(made.columns) == [*expected.columns, *role, "plan"]
    assert len(made) == len(expected)
    numbers = expected.select_dtypes("number").columns
    for column in numbers.intersection(["value", "scans", "n_positive", "pretraining_scans", "patients"]):
        assert np.allclose(made[column].astype(float), expected[column].astype(float), equal_nan=True)


def test_the_report_joins_figures_and_tables(written, study, files, tmp_path):
    for name in TABLES:
        write_table(tmp_path / "tables" / f"{name}.csv", table(name, study))
    (tmp_path / "config.yaml").write_text("title: Planted\n")
    main(
        [
            *("report", "--out", str(tmp_path / "report.html"), "--config", str(tmp_path / "config.yaml")),
            *("--figures", *map(str, sorted(written.glob("*.*")))),
            *("--tables", *map(str, sorted((tmp_path / "tables").glob("*.csv")))),
            *flags(files, "excluded", "audit"),
        ]
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Planted</h1>" in page
    assert page.count("<img ") == len(FIGURES)
    assert all(f'<figure id="{name}">' in page for name in FIGURES)
    assert all(f"Table {name}: " in page for name in TABLES)
    assert study.audit["stamp"] in page
    assert "not estimable" in page
    assert str(tmp_path) not in page


def test_nothing_to_draw_is_a_figure_and_not_a_failure(empty_study, tmp_path):
    path = tmp_path / "curves.parquet"
    write_table(path, empty_study.curves)
    main(["figure", "fig4b_kaplan_meier", "--out", str(tmp_path / "f"), "--curves", str(path)])
    svg = (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert "Nothing to draw: no site has enough deaths for risk groups." in svg
    assert caption("fig4b_kaplan_meier")[:40] in svg


def test_an_unknown_figure_is_one_line(capsys, tmp_path):
    error = error_of(capsys, "figure", "fig9", "--out", tmp_path / "x")
    assert error.startswith("neurorad figure: no figure is called fig9; figures: fig1_flow")
    assert error.count("\n") == 1


def test_an_unknown_table_is_one_line(capsys, tmp_path):
    error = error_of(capsys, "table", "nine", "--out", tmp_path / "x.csv")
    assert error.startswith("neurorad table: no table is called nine; tables: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["figure", "table"])
def test_a_missing_column_is_one_line(capsys, tmp_path, verb):
    write_table(tmp_path / "probe.csv", pd.DataFrame({"encoder": ["a"], "site": ["b"]}))
    name = {"figure": "fig3a_rivals", "table": "probe"}[verb]
    error = error_of(capsys, verb, name, "--out", tmp_path / "x.csv", "--probe", tmp_path / "probe.csv")
    assert "probe.csv: --probe needs the columns endpoint, protocol, metric, value; it has encoder, site." in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.csv").exists()


def test_a_missing_flag_is_one_line(capsys, tmp_path, files):
    error = error_of(capsys, "figure", "fig1_flow", "--out", tmp_path / "x", *flags(files, "scans", "volumes"))
    assert error == "neurorad figure: this needs --excluded, --manifest: give the file or files\n"
    error = error_of(capsys, "table", "supplementary_2_labels", "--out", tmp_path / "x.csv")
    assert error == "neurorad table: this needs --patients, --scans, --decisions: give the file or files\n"


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path):
    error = error_of(capsys, "figure", "fig3a_rivals", "--out", tmp_path / "x", "--probe", tmp_path / "none.parquet")
    assert error.endswith("none.parquet: no such file\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("lost", ["figures", "tables", "excluded", "audit", "config"])
def test_a_report_without_one_of_its_files_is_one_line(capsys, tmp_path, lost, files):
    (tmp_path / "config.yaml").write_text("title: x\n")
    write_table(tmp_path / "t.csv", pd.DataFrame({"a": [1]}))
    (tmp_path / "f.svg").write_text("<dc:description>x</dc:description>")
    given = {"figures": "f.svg", "tables": "t.csv", "config": "config.yaml", "audit": "audit.json"}
    words = {key: str(tmp_path / name) for key, name in given.items()} | {"excluded": files["excluded"][0]}
    words[lost] = str(tmp_path / "none.csv") if lost != "figures" else str(tmp_path / "none.svg")
    arguments = [word for key, value in words.items() for word in (f"--{key}", value)]
    error = error_of(capsys, "report", "--out", tmp_path / "r.html", *arguments)
    assert "no such file" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_the_help_lists_every_figure_with_the_flags_it_needs(capsys):
    with pytest.raises(SystemExit):
        main(["figure", "--help"])
    said = capsys.readouterr().out
    for name, entry in FIGURES.items():
        assert f"{name} ({' '.join('--' + need for need in entry.needs)})" in said
