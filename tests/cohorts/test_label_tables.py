"""Files that are no label table, or not of the kind that the release ships, each end in one clear error."""

import re

import openpyxl
import pandas as pd
import pytest
import yaml

from neurorad import RESOURCES
from neurorad.cohorts.label_tables import columns_told, dictionaries, read_labels, spellings
from neurorad.cohorts.labels import DECISIONS, EXAM_COLUMNS, harmonise
from neurorad.problems import InputError

HEADER = "patient,age,sex,grade,diagnosis,idh1,mgmt,1p19q,egfr,atrx,tp53,cdkn2ab,tert,ki67,os_days,event"
ROW = "A1,66.5,M,4,glioblastoma,0,1,0,,,,,,12.5,400,1"


def read(tmp_path, content, release="generic", name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(path, release)


def workbook(path, sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_same_table_however_it_is_cut(tmp_path, separator, ending, mark):
    text = mark + ending.join([HEADER, ROW, "", ROW.replace("A1", "A2"), ""]).replace(",", separator)
    raw, rules = read(tmp_path, text)
    assert list(raw.index) == [2, 4]
    exams, problems, _ = harmonise(raw, rules, "x")
    assert problems == []
    assert exams[["age", "idh1", "mgmt", "ki67", "os_days"]].to_numpy().tolist() == [[66.5, 0, 1, 12.5, 400]] * 2


def test_words_are_read_without_the_spaces_and_in_any_capitals(tmp_path):
    rows = "A1, m ,Mutant,Methylated\nA2,Male,WILDTYPE,UnMethylated\nA3,FEMALE,Wildtype,\u00a0methylated\nA4,f,wt,1\n"
    raw, rules = read(tmp_path, "patient,sex,idh1,mgmt\n" + rows)
    exams, problems, _ = harmonise(raw, rules, "x")
    assert exams[["sex", "idh1", "mgmt"]].to_numpy().tolist() == [["M", 1, 1], ["M", 0, 0], ["F", 0, 1]]
    (problem,) = problems
    assert str(problem) == "row 5, column 'idh1': 'wt' is unknown; known are '1', '0', 'mutant', 'wildtype', ''"


@pytest.mark.parametrize("release", ["generic", "bids", "ucsf-pdgm", "upenn-gbm", "lumiere", "brats-gli-post"])
def test_a_known_spelling_is_read_in_any_capitals(release):
    (rules,) = dictionaries(release)
    identifier, example = spellings(rules["id"])[0], "A" if release == "generic" else rules["id"]["example"]
    changed = 0
    for name, rule in rules["columns"].items():
        header, *others = rule.get("first_of") or spellings(rule)[:1]
        for spelling in (*rule.get("values", {}), *rule.get("decided", {}), *rule.get("missing", [])):
            texts = {spelling, spelling.upper(), spelling.lower(), spelling.title(), spelling.swapcase()}
            read = []
            for text in texts:
                cells = {identifier: example, header: text} | dict.fromkeys(others, spelling)
                raw = pd.DataFrame([cells], index=[2], dtype=str)
                exams, problems, effects = harmonise(raw, {"id": rules["id"], "columns": {name: rule}}, "x")
                assert problems == [], (name, text)
                read.append((exams, effects))
            for exams, effects in read[1:]:
                pd.testing.assert_frame_equal(exams, read[0][0])
                pd.testing.assert_frame_equal(effects, read[0][1])
            changed += len(texts) - 1
    assert changed >= 10


def test_which_columns_are_read_is_told_without_a_value(tmp_path):
    raw, rules = read(tmp_path, "patient,notes,age,molecular_status\nDOE,secret,50,1\n")
    assert columns_told(raw, rules) == "columns read: patient, age; not read: notes, molecular_status"
    raw, rules = read(tmp_path, "patient,age\nDOE,50\n")
    assert columns_told(raw, rules) == "columns read: patient, age; not read: none"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("\n\n,,\n", "empty"),
        (HEADER + "\n", "no row below it"),
        (f"My hospital's patients\n\n{HEADER}\n{ROW}\n", "the header is in row 3; delete the rows above it"),
        (f"{HEADER},age\n{ROW},66\n", "two columns are named 'age'"),
        (f"{HEADER}\n{ROW.replace('66.5', '66,5')}\n", "row 2 has 17 cells, the header 16; a decimal comma"),
        (f"{HEADER}\n{ROW},\n", "row 2 has 17 cells"),
        (f"{HEADER},\n{ROW},note\n", "row 2 has 'note' in a column without a name"),
        (f'{HEADER}\n{ROW}\n"A2,66,M', "row 3 cannot be read"),
        (HEADER.replace("patient", "Patient") + "\n" + ROW, "no column 'patient' in rows 1 to 10 (nearest: 'Patient')"),
        (f"{HEADER}\n{ROW.replace('A1', 'Zürich')}\n".encode("latin-1"), "not UTF-8 at byte 96, row 2 (Latin-1?)"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"PK\x03\x04" + b"\0" * 60, "by its content an Excel workbook, but generic has its labels in CSV"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 60, "an Excel file of before 2007; save it as CSV"),
    ],
)
def test_what_is_no_csv_table_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(tmp_path, content)


def test_a_missing_file_says_where_it_is_declared(tmp_path):
    with pytest.raises(InputError, match="does not exist; mend `labels:`"):
        read_labels(tmp_path / "none.csv", "generic")


def test_the_content_counts_and_not_the_suffix(tmp_path):
    path = workbook(tmp_path / "table.csv", {"Sheet1": [HEADER.split(","), ROW.split(",")]})
    with pytest.raises(InputError, match="by its content an Excel workbook"):
        read_labels(path, "generic")
    with pytest.raises(InputError, match="by its content text, but mu-glioma-post has its labels in an Excel workbook"):
        read(tmp_path, f"{HEADER}\n{ROW}\n", "mu-glioma-post", "table.xlsx")
    assert len(read(tmp_path, f"{HEADER}\n{ROW}\n", name="table.xlsx")[0]) == 1


POST = ["BraTS Subject ID", "Site", "Train/Test/Validation ", "Magnetic Field Strength", "Manufacturer"]
POST += ["Patient's Age", "Patient's Sex", "Glioma type "]


def test_cells_of_a_workbook_are_read_as_they_are_shown(tmp_path):
    rows = [POST, ["BraTS-GLI-00005-100", "UCSF", "Train", 3.0, "GE", 50.0, "M", "Oligodendroglioma "]]
    rows += [[None] * 8, ["BraTS-GLI-00005-101", "UCSF", "Train", 1.5, None, None, "M", None]]
    raw, rules = read_labels(workbook(tmp_path / "t.xlsx", {"any": rows}), "brats-gli-post")
    exams, problems, _ = harmonise(raw, rules, "post")
    assert (problems, list(raw.index)) == ([], [2, 4])
    assert exams["scan"].tolist() == ["BraTS-GLI-00005_100", "BraTS-GLI-00005_101"]
    assert exams["field_strength"].tolist() == [3.0, 1.5]
    assert exams.loc[0, ["age", "sex", "diagnosis", "vendor"]].tolist() == [50, "M", "oligodendroglioma", "GE"]
    assert exams.loc[1, ["age", "diagnosis", "vendor"]].isna().all()


def test_a_workbook_that_is_cut_off_or_of_another_release_is_refused(tmp_path):
    whole = workbook(tmp_path / "t.xlsx", {"any": [POST, ["BraTS-GLI-00005-100", *[None] * 7]]}).read_bytes()
    with pytest.raises(InputError, match="not a whole Excel workbook"):
        read(tmp_path, whole[:-40], "brats-gli-post")
    with pytest.raises(InputError, match="no sheet 'MU Glioma Post'; it has 'any'"):
        read(tmp_path, whole, "mu-glioma-post")


def edited_mu(shared, tmp_path, edit):
    book = openpyxl.load_workbook(shared / "tables" / "MU-Glioma-Post_ClinicalData-July2025.xlsx")
    edit({cell.value: cell for row in book["Data Dictionary"].iter_rows(max_col=2) for cell in row})
    book.save(tmp_path / "mu.xlsx")
    return tmp_path / "mu.xlsx"


def test_what_a_code_means_is_read_from_the_workbook(shared, tmp_path):
    def swap(cells):
        cells["0 - No IDH1 mutation"].value = "1 - No IDH1 mutation"
        cells["1 - IDH1 mutation is present"].value = "0 - IDH1 mutation is present"

    before, _, _ = harmonise(
        *read_labels(shared / "tables" / "MU-Glioma-Post_ClinicalData-July2025.xlsx", "mu-glioma-post"), "mu"
    )
    after, problems, _ = harmonise(*read_labels(edited_mu(shared, tmp_path, swap), "mu-glioma-post"), "mu")
    assert problems == []
    assert after["idh1"].equals(1 - before["idh1"])
    assert after["mgmt"].equals(before["mgmt"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "2 - ATRX is mosaic",
            "2 - ATRX is lost",
            "code 2 of 'ATRX mutation' means 'ATRX is lost', which no dictionary",
        ),
        ("ATRX mutation", "ATRX", "no codes for 'ATRX mutation'"),
        ("2 - ATRX is mosaic", "1 - ATRX is mosaic", "explains 1 of 'ATRX mutation' twice"),
    ],
)
def test_a_code_that_the_dictionary_does_not_know_is_refused(shared, tmp_path, old, new, message):
    path = edited_mu(shared, tmp_path, lambda cells: setattr(cells[old], "value", new))
    with pytest.raises(InputError, match=message):
        read_labels(path, "mu-glioma-post")


def test_a_code_missing_from_the_workbook_is_a_problem_of_the_cells_that_use_it(shared, tmp_path):
    path = edited_mu(shared, tmp_path, lambda cells: setattr(cells["2 - ATRX is mosaic"], "value", None))
    _, problems, _ = harmonise(*read_labels(path, "mu-glioma-post"), "mu")
    assert {(p.column, p.value) for p in problems} == {("ATRX mutation", "2")}
    assert len(problems) == 3


class Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, where SafeLoader keeps the last one in silence."""


def _mapping(loader, node):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


Strict.add_constructor("tag:yaml.org,2002:map", _mapping)
RELEASES = sorted(path.stem for path in (RESOURCES / "labels").glob("*.yaml"))
RULE_KEYS = {"column", "first_of", "optional", "values", "decided", "patterns", "codes"}
RULE_KEYS |= {"number", "text", "missing", "written", "times", "note"}
TABLE_KEYS = {"sheet", "code_sheet", "id", "aliases", "every_exam", "survival_from", "implies", "columns"}


@pytest.mark.parametrize("release", RELEASES)
def test_a_dictionary_spells_everything_and_has_no_yaml_trap(release):
    text = (RESOURCES / "labels" / f"{release}.yaml").read_text()
    assert text.startswith("# ")
    documents = list(yaml.load_all(text, Strict))
    assert documents == list(yaml.safe_load_all(text))
    for rules in dictionaries(release):
        assert set(rules) <= TABLE_KEYS
        assert rules["id"]["one_row"] in ("exam", "patient")
        assert "patient" in re.compile(rules["id"]["pattern"]).groupindex or "write" in rules["id"]
        assert set(rules["columns"]) <= set(EXAM_COLUMNS) - {"patient", "scan", "cohort"}
        for name, rule in rules["columns"].items():
            assert set(rule) <= RULE_KEYS, name
            assert ("column" in rule) != ("first_of" in rule), name
            assert sum(kind in rule for kind in ("values", "patterns", "number", "text")) == 1, name
            spelled = [
                *rule.get("values", {}),
                *rule.get("decided", {}),
                *rule.get("patterns", {}),
                *rule.get("missing", []),
            ]
            headers = rule.get("first_of", rule.get("column"))
            for item in [*spelled, *([headers] if isinstance(headers, str) else headers)]:
                assert isinstance(item, str), f"{name}: {item!r} needs quotes"
                assert item == item.strip(), name
            for value in [*rule.get("values", {}).values(), *rule.get("patterns", {}).values()]:
                assert type(value) in (int, str, type(None)), f"{name}: {value!r}"
            assert set(rule.get("decided", {}).values()) <= set(DECISIONS)
            assert not set(rule.get("decided", {})) & set(rule.get("values", {})), name
        # Capitals do not count, so no two spellings of a column may differ by them alone.
        spelled = {}
        for rule in rules["columns"].values():
            for header in rule.get("first_of") or spellings(rule):
                spelled.setdefault(header, set()).update(
                    *(rule.get(kind, ()) for kind in ("values", "decided", "missing"))
                )
        for header, texts in spelled.items():
            assert len({text.casefold() for text in texts}) == len(texts), header


def test_an_unknown_release_names_the_known_ones():
    with pytest.raises(InputError, match="known: bids, brats-gli-post"):
        dictionaries("ucsf")
