"""Reading the flags: files joined under one header, identifiers kept as text, and mistakes named in one line."""

import argparse

import numpy as np
import pandas as pd
import pytest

from neurorad.files import write_json, write_table
from neurorad.problems import InputError
from neurorad.reporting.inputs import SOURCES, Tables, add_flags, read_source, read_tables, require


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args([str(flag) for flag in flags])


def write(folder, name: str, **columns: list):
    write_table(folder / name, pd.DataFrame(columns))
    return folder / name


def test_files_of_one_flag_are_joined_in_their_order(tmp_path):
    first = write(tmp_path, "1.csv", encoder=["a"], cohort=["x"], x=[1.0], y=[2.0])
    second = write(tmp_path, "2.parquet", encoder=["b"], cohort=["y"], x=[3.0], y=[4.0])
    tables = read_tables(parse("--coordinates", first, second))
    assert tables.coordinates["encoder"].tolist() == ["a", "b"]
    assert tables.coordinates.index.tolist() == [0, 1]
    assert tables.probe is None
    assert tables.maps is None


def test_identifiers_keep_their_zeros(tmp_path):
    path = write(tmp_path, "scans.tsv", cohort=["a"], scan=["007"], patient=["01"], problem=[None])
    row = read_source("scans", [path]).iloc[0]
    assert (row["scan"], row["patient"]) == ("007", "01")


def test_an_empty_file_beside_a_full_one_leaves_numbers_as_numbers(tmp_path):
    full = write(tmp_path, "1.csv", encoder=["a"], cohort=["x"], x=[1.5], y=[2.5])
    empty = write(tmp_path, "2.csv", encoder=[], cohort=[], x=[], y=[])
    joined = read_source("coordinates", [empty, full])
    assert joined["x"].dtype == float
    assert len(joined) == 1


def test_only_empty_files_give_their_header_without_rows(tmp_path):
    empty = write(tmp_path, "1.csv", encoder=[], cohort=[], x=[], y=[])
    joined = read_source("coordinates", [empty, empty])
    assert list(joined.columns) == ["encoder", "cohort", "x", "y"]
    assert joined.empty


@pytest.mark.parametrize("name", ["history", "groups"])
def test_the_encoder_of_a_training_log_is_the_name_of_its_folder(tmp_path, name):
    (tmp_path / "mae-dro-s1").mkdir()
    columns = {"step": [0], "loss": [1.0], "group": ["a"], "weight": [1.0]}
    path = write(tmp_path / "mae-dro-s1", f"{name}.csv", **columns)
    assert read_source(name, [path])["encoder"].tolist() == ["mae-dro-s1"]


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_missing_column_is_named_with_the_file_and_what_it_has(tmp_path, name):
    what, needed = SOURCES[name]
    path = write(tmp_path, "wrong.csv", **{column: ["1"] for column in (*needed[:-1], "other")})
    with pytest.raises(InputError) as problem:
        read_source(name, [path])
    message = str(problem.value)
    assert message.startswith(f"{path}: --{name} needs the columns {needed[-1]}; it has ")
    assert "other" in message
    assert what in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere.csv: no such file"):
        read_source("coordinates", [tmp_path / "nowhere.csv"])
    with pytest.raises(InputError, match="nowhere.npz: no such file"):
        read_tables(parse("--maps", tmp_path / "nowhere.npz"))


def test_an_audit_without_a_stamp_is_refused(tmp_path):
    write_json(tmp_path / "audit.json", {"overlaps": []})
    with pytest.raises(InputError, match="has no `stamp`"):
        read_tables(parse("--audit", tmp_path / "audit.json"))


def test_maps_are_read_as_they_were_stored_and_without_pickles(tmp_path):
    planes = {"map_plane": np.ones((1, 2, 2), np.float16), "against_plane": np.zeros((1, 2, 2), np.float16)}
    stored = {"encoder": np.array("byol-dro-s0"), "maps": np.ones((1, 2, 2, 2), np.float16), **planes}
    np.savez_compressed(tmp_path / "maps.npz", **stored)
    (maps,) = read_tables(parse("--maps", tmp_path / "maps.npz")).maps
    assert str(maps["encoder"]) == "byol-dro-s0"
    assert "maps" not in maps, "figures need the planes alone"
    assert all((maps[name] == planes[name]).all() for name in planes)
    np.savez(tmp_path / "bad.npz", encoder=np.array([{"code": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_tables(parse("--maps", tmp_path / "bad.npz"))


def test_what_was_not_given_is_named_by_its_flag():
    with pytest.raises(InputError, match=r"needs --probe, --maps: give"):
        require(Tables(scans=pd.DataFrame()), "scans", "probe", "maps")


def test_the_audit_decides_the_stamp_even_when_it_is_empty():
    stamped = pd.DataFrame({"leakage": ["LEAKAGE NOT EXCLUDED"]})
    assert Tables(probe=stamped, audit={"stamp": "from the audit"}).leakage == "from the audit"
    assert Tables(probe=stamped, audit={"stamp": ""}).leakage == ""


def test_without_an_audit_the_stamp_is_that_of_the_tables():
    clean, stamped = pd.DataFrame({"leakage": ["", None]}), pd.DataFrame({"leakage": ["", "NOT EXCLUDED"]})
    assert Tables(probe=clean, survival=stamped).leakage == "NOT EXCLUDED"
    assert Tables(probe=clean).leakage == ""
    assert Tables().leakage == ""
