"""Harmonised labels: a release's own table to one row an exam, every spelling through an explicit dictionary.

A value that the dictionary (`neurorad.cohorts.label_tables`) does not know is a problem that names row, column, value
and the nearest known spelling; it is never turned into a missing value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from neurorad.cohorts.inventory import pseudonym
from neurorad.cohorts.label_tables import columns_of, nearest, respelled, spellings
from neurorad.endpoints import CUTOFFS, TIMES, endpoints
from neurorad.problems import InputError

MARKERS = tuple(name for name, endpoint in endpoints().items() if endpoint.kind == "binary")
TEXT = ("sex", "diagnosis", "resection", "vendor", "protocol", "left_open")
EXAM_COLUMNS = (
    *("patient", "scan", "age", "sex", "grade", "diagnosis"),
    *MARKERS,
    *(
        "ki67",
        "tp53_percent",
        "os_days",
        "event",
        "pfs_days",
        "progressed",
        "radiotherapy_days",
        "chemotherapy_days",
        "kps",
        "resection",
        "vendor",
        "field_strength",
        "protocol",
        "left_open",
        "cohort",
    ),
)
PATIENT_COLUMNS = ("cohort", *(name for name in EXAM_COLUMNS if name not in ("scan", "cohort")))
DECIDED_COLUMNS = ("cohort", "decision", "choice", "column", "value", "exams", "patients")

SIDES = ("at or above", "below")
"""Of a cut-off."""

Case = tuple[str, str, str]
"""A decision, our column, and what it decides on: the spelling in the table, or the side of the cut-off."""

DECISIONS: dict[str, dict[str, int | None]] = {
    "mgmt_indeterminate": {"missing": None, "negative": 0, "positive": 1},
    "relative_codeletion": {"missing": None, "negative": 0, "positive": 1},
    "idh_not_specified": {"missing": None, "wildtype": 0},
    "uncertain_date_of_death": {"missing": None, "dead": 1},
}
"""Decision -> choice -> value. The first choice is the safe one: what was not settled is not known."""

SAFE: dict[str, Any] = {name: next(iter(choices)) for name, choices in DECISIONS.items()} | {
    key: endpoints()[name].cutoff for key, name in CUTOFFS.items()
}
"""Every decision's default. The cut-offs are per cent of positive nuclei, and what is at or above them is positive:
`ki67_cutoff` divides the patients of the probe's classification (10; the regression knows no cut-off); `tp53_cutoff`
makes p53 staining a mutation where no status is given (10: Takami 2015, Brain Pathology 25:256).
"""


@dataclass(frozen=True)
class LabelProblem:
    """One cell of a label table that no dictionary explains."""

    row: int
    patient: str
    column: str
    value: str
    hint: str

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column!r}: {self.value!r} {self.hint}"


class Reading(NamedTuple):
    """What a rule makes of a row: value, problem ("" if none), column it came from, decision behind it ("" if none)."""

    value: Any
    problem: str
    column: str
    decision: str = ""


def decisions(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every decision, as given or safe.

    Raises:
        InputError: an unknown decision or choice, or a cut-off that is no percentage.
    """
    for name, choice in given.items():
        if name not in SAFE:
            raise InputError(f"labels: unknown decision {name!r}; known: {', '.join(SAFE)}")
        if name in DECISIONS and choice not in DECISIONS[name]:
            raise InputError(f"labels: {name} cannot be {choice!r}; choose {', '.join(DECISIONS[name])}")
    for name in CUTOFFS:
        cutoff = given.get(name, SAFE[name])
        if isinstance(cutoff, bool) or not isinstance(cutoff, int | float) or not 0 < cutoff <= 100:
            raise InputError(f"labels: {name} is {cutoff!r}; must be a percentage above 0")
    return {**SAFE, **given}


def decided_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decisions that a study's config makes: its `labels` block without `unknown`, which decides on no value."""
    return {key: choice for key, choice in config.get("labels", {}).items() if key != "unknown"}


def harmonise(
    raw: pd.DataFrame,
    rules: dict[str, Any],
    cohort: str,
    chosen: Mapping[str, Any] = SAFE,
    table: str = "label table",
) -> tuple[pd.DataFrame, list[LabelProblem], pd.DataFrame]:
    """The exams of a label table.

    Args:
        raw, rules: what `read_labels` returns.
        chosen: what `decisions` returns.
        table: what errors call it.

    Returns:
        One row a row of `raw` in `EXAM_COLUMNS`, in its order: markers and event 1, 0 or missing, ki67 and tp53_percent
        0 to 100, os_days from the cohort's time origin, left_open the columns (with spaces between) that are missing
        because a decision left them so. All exams of a patient with a problem are left out.
        Every cell that the dictionary does not explain.
        What each decision did, in `DECIDED_COLUMNS`: the exams of the first table with `value`, and the patients whose
        row of `patients_of` rests on it.

    A survival time without an event is a problem, unless a decision left the event out or the release's table states none.
    A time that does not count from the cohort's origin is missing. An event without a time stays.

    Raises:
        InputError: as `columns_of`.
    """
    columns = columns_of(raw, rules, f"cohort {cohort}: {table}")
    identifier = _present(rules["id"], raw)
    problems: list[LabelProblem] = []
    exams: list[dict[str, Any]] = []
    cases: dict[Case, list[int]] = {
        (decision, name, spelling): []
        for name, (_, rule) in columns.items()
        for spelling, decision in rule.get("decided", {}).items()
    }
    cases |= {(key, name, side): [] for key, name in CUTOFFS.items() if name in columns for side in SIDES}
    seen: set[tuple[str, str]] = set()
    rows = zip(raw.index, raw.to_dict("records"), respelled(raw, columns).to_dict("records"), strict=True)
    for number, written, cells in rows:
        named = _identify(cells[identifier], rules["id"], cohort)
        shown = "(private)" if rules["id"].get("private") else cells[identifier]
        if named is None:
            hint = f"is no id of this release (expected {rules['id']['example']})"
            problems.append(LabelProblem(number, "", identifier, shown, hint))
            continue
        patient, session = named
        if named in seen:
            hint = f"is a second row for one {rules['id']['one_row']}; keep one"
            problems.append(LabelProblem(number, patient, identifier, shown, hint))
        seen.add(named)
        scan = "_".join(filter(None, named)) if rules["id"]["one_row"] == "exam" else ""
        values, hints, used = _exam(cells, columns, rules, chosen)
        if session not in rules.get("survival_from", [session]):
            values["os_days"] = None
        exams.append({**values, "cohort": cohort, "patient": patient, "scan": scan})
        problems += [LabelProblem(number, patient, column, written[column], hint) for column, hint in hints]
        for case in used:
            cases[case].append(len(exams) - 1)
    bad = {problem.patient for problem in problems}
    kept = [place for place, row in enumerate(exams) if row["patient"] not in bad]
    usable = _typed([exams[place] for place in kept])
    first = {kept[row] for row in _earliest(usable).index}
    effects = []
    for (decision, column, value), places in cases.items():
        choice = f"{chosen[decision]:g}" if decision in CUTOFFS else chosen[decision]
        counted = len(set(places) & set(kept)), len(set(places) & first)
        effects.append((cohort, decision, choice, column, value, *counted))
    return usable, problems, pd.DataFrame(effects, columns=list(DECIDED_COLUMNS))


def patients_of(exams: pd.DataFrame) -> pd.DataFrame:
    """One row a patient in `PATIENT_COLUMNS`, sorted: the earliest exam (time points sort by name in every release)."""
    return _earliest(exams)[list(PATIENT_COLUMNS)].reset_index(drop=True)


def _earliest(exams: pd.DataFrame) -> pd.DataFrame:
    return exams.sort_values(["patient", "scan"]).drop_duplicates("patient")


def aliases(raw: pd.DataFrame, rules: dict[str, Any], cohort: str) -> pd.DataFrame:
    """Other names of the cohort's patients (`cohort patient alias`), from every row of the table.

    All time points count, and so do patients whose labels are unusable: their scans may still be somewhere else.
    """
    identifier = _present(rules["id"], raw)
    rows = set()
    for cells in raw.to_dict("records"):
        named = _identify(cells[identifier], rules["id"], cohort)
        for column, rule in rules.get("aliases", {}).items():
            if named and column in cells and re.fullmatch(rule["pattern"], cells[column], re.ASCII):
                rows.add((cohort, named[0], cells[column]))
    return pd.DataFrame(sorted(rows), columns=["cohort", "patient", "alias"])


def data_dictionary(rules: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What each column of `patients.tsv` means and where it came from (BIDS style)."""
    described: dict[str, Any] = {
        "cohort": {"Description": "cohort name in config.yaml"},
        "patient": {"Description": "patient id as the release spells it (a pseudonym for private cohorts)"},
        "left_open": {
            "Description": "columns that are empty because the table settles nothing and a decision left it so"
        },
    }
    for name, value in rules.get("every_exam", {}).items():
        described[name] = {"Source": f"the release's documentation: {value!r} for every exam"}
    for name, rule in rules["columns"].items():
        headers = rule["first_of"] if "first_of" in rule else spellings(rule)
        entry: dict[str, Any] = {"Source": " or ".join(headers)}
        if "note" in rule:
            entry["Description"] = rule["note"]
        levels = rule.get("values", rule.get("patterns"))
        if levels is not None:
            entry["Levels"] = dict(levels)
        for spelling, decision in rule.get("decided", {}).items():
            entry["Levels"][spelling] = f"{decision}: {chosen[decision]}"
        if "number" in rule:
            entry["Range"] = [bound * rule.get("times", 1) for bound in rule["number"]]
        described[name] = entry
    if "tp53_percent" in described:
        described["tp53"]["Description"] = f"where empty in the table: tp53_percent at or above {chosen['tp53_cutoff']}"
    return described


def _present(rule: dict[str, Any], raw: pd.DataFrame) -> str:
    return next(name for name in spellings(rule) if name in raw)


def _identify(identifier: str, rule: dict[str, Any], cohort: str) -> tuple[str, str] | None:
    """Patient (as the folders spell it, or its pseudonym) and time point of a table's id."""
    match = re.fullmatch(rule["pattern"], identifier, re.ASCII)
    if match is None:
        return None
    groups = {name: value or "" for name, value in match.groupdict().items()}
    patient = rule.get("write", "{patient}").format(**groups)
    if patient in rule.get("renamed", {}):
        patient, session = rule["renamed"][patient]
        return patient, session
    return (pseudonym(cohort, patient) if rule.get("private") else patient), groups.get("session", "")


def _exam(
    cells: dict[str, str],
    columns: dict[str, tuple[list[str], dict[str, Any]]],
    rules: dict[str, Any],
    chosen: Mapping[str, Any],
) -> tuple[dict[str, Any], list[tuple[str, str]], list[Case]]:
    """A row's values, its problems by column, and the decisions that it depends on."""
    readings = {name: _read(cells, names, rule, chosen) for name, (names, rule) in columns.items()}
    values = dict.fromkeys(EXAM_COLUMNS) | rules.get("every_exam", {})
    values |= {name: reading.value for name, reading in readings.items()}
    hints = [(reading.column, reading.problem) for reading in readings.values() if reading.problem]
    hints += _contradictions(cells, readings, rules)
    used = [(reading.decision, name, cells[reading.column]) for name, reading in readings.items() if reading.decision]
    for days, ended in TIMES.values():
        if (event := readings.get(ended)) and event.value is None and values[days] is not None:
            values[days] = None
            if not event.decision and not event.problem:
                hints.append((event.column, f"says no event beside a survival time in {readings[days].column!r}"))
    values["left_open"] = " ".join(name for _, name, _ in used if values[name] is None) or None
    if values["ki67"] is not None:
        used.append(("ki67_cutoff", "ki67", SIDES[values["ki67"] < chosen["ki67_cutoff"]]))
    if values["tp53"] is None and values["tp53_percent"] is not None:
        above = int(values["tp53_percent"] >= chosen["tp53_cutoff"])
        values["tp53"] = above
        used.append(("tp53_cutoff", "tp53_percent", SIDES[1 - above]))
    return values, hints, used


def _read(cells: dict[str, str], names: list[str], rule: dict[str, Any], chosen: Mapping[str, Any]) -> Reading:
    if "number" in rule:
        return _number(cells, names, rule)
    (name,) = names
    text = cells[name]
    if "text" in rule:
        if text in rule["missing"] or re.fullmatch(rule["text"], text, re.ASCII):
            return Reading(None if text in rule["missing"] else text, "", name)
        return Reading(None, "is no plain name (letters, digits, spaces, dots, dashes; at most 40)", name)
    if text in rule.get("decided", {}):
        decision = rule["decided"][text]
        return Reading(DECISIONS[decision][chosen[decision]], "", name, decision)
    if "patterns" in rule:
        for pattern, value in rule["patterns"].items():
            if re.fullmatch(pattern, text, re.ASCII):
                return Reading(value, "", name)
        return Reading(None, f"is unknown; known are {', '.join(map(repr, rule['patterns']))}", name)
    if text in rule["values"]:
        return Reading(rule["values"][text], "", name)
    known = [*rule["values"], *rule.get("decided", {})]
    near = nearest(text, known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(map(repr, known))}"
    return Reading(None, f"is unknown; {hint}", name)


def _number(cells: dict[str, str], names: list[str], rule: dict[str, Any]) -> Reading:
    missing = rule.get("missing", [])
    filled = [name for name in names if cells[name] not in missing]
    if not filled:
        return Reading(None, "", names[0])
    low, high = rule["number"]
    numbers = []
    for name in filled:
        match = re.fullmatch(rule.get("written", r"(-?\d+(?:\.\d+)?)"), cells[name], re.ASCII)
        if match is None:
            near = nearest(cells[name], missing, 0.6)
            hint = f"; did you mean {near!r}?" if near else ""
            hint = "; write a decimal point and nothing between thousands" if "," in cells[name] else hint
            return Reading(None, f"is not a number{hint}", name)
        if not low <= float(match[1]) <= high:
            return Reading(None, f"is not between {low} and {high}", name)
        numbers.append(float(match[1]))
    if filled[1:]:
        return Reading(
            None, f"stands beside {cells[filled[0]]!r} in {filled[0]!r}; one of them may be filled", filled[1]
        )
    return Reading(numbers[0] * rule.get("times", 1), "", filled[0])


def _contradictions(
    cells: dict[str, str], readings: dict[str, Reading], rules: dict[str, Any]
) -> list[tuple[str, str]]:
    """Column and problem where a column denies what another implies, and of a name elsewhere that is none."""
    found = []
    for column, implied in rules.get("implies", {}).items():
        for name, value in implied.get(cells[column], {}).items():
            reading = readings[name]
            if not reading.decision and reading.value is not None and reading.value != value:
                found.append((reading.column, f"contradicts {cells[column]!r} in {column!r}"))
    for column, rule in rules.get("aliases", {}).items():
        text = cells.get(column, "")
        if text not in rule["missing"] and column in cells and not re.fullmatch(rule["pattern"], text, re.ASCII):
            found.append((column, f"is no such name (expected {rule['example']})"))
    return found


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Whole numbers as whole numbers, missing ones as missing, so that 1 is written as 1 and not as 1.0."""
    table = pd.DataFrame(rows, columns=list(EXAM_COLUMNS)).astype(object)
    for name in EXAM_COLUMNS:
        if name in ("patient", "scan", "cohort", *TEXT):
            table[name] = table[name].astype("string")
        elif name in (*MARKERS, "event", "progressed", "grade"):
            table[name] = table[name].astype("Int64")
        else:
            numbers = table[name].astype("Float64")
            table[name] = numbers.astype("Int64") if (numbers.dropna() % 1 == 0).all() else numbers
    return table
