"""The phantom study on paper: who is in it, with which latents, labels, survival, time points and faults.

Pure and cheap: every job recomputes the same plan from recipe, seed and scale, and renders its own cohort from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurorad.files import read_yaml
from neurorad.problems import InputError
from neurorad.seeds import generator

LATENTS = (
    "mismatch",
    "enhancing",
    "frontal",
    "lateral",
    "oedema",
    "vertical",
    "texture",
    "necrosis",
    "size",
    "uptake",
)
"""What a lesion looks like, in SD; one latent carries one endpoint."""

MARKERS = ("idh1", "mgmt", "1p19q", "egfr", "atrx", "tp53", "cdkn2ab", "tert")
ENDPOINTS = (*MARKERS, "ki67", "grade")

PATIENT_NAMES = {
    "brats-gli-pre": "BraTS-GLI-{:05d}",
    "brats-gli-post": "BraTS-GLI-{:05d}",
    "brats-men": "BraTS-MEN-{:05d}",
    "brats-met": "BraTS-MET-{:05d}",
    "brats-ped": "BraTS-PED-{:05d}",
    "lumiere": "Patient-{:03d}",
    "mu-glioma-post": "PatientID_{:04d}",
    "ucsf-pdgm": "UCSF-PDGM-{:04d}",
    "upenn-gbm": "UPENN-GBM-{:05d}",
    "cuimc": "CUIMC-{:03d}",
}
"""How each release spells a patient."""

SESSION_NAMES = {
    "brats-gli-post": ("100", "101"),
    "lumiere": ("week-000-1", "week-013"),
    "mu-glioma-post": ("Timepoint_1", "Timepoint_2"),
    "upenn-gbm": ("11", "21"),
    "ucsf-pdgm": ("",),
    "cuimc": ("study-1",),
}
"""How each release spells the first and second time point; BraTS writes `000`."""

SCAN_NAMES = {
    "lumiere": "{patient}/{session}",
    "mu-glioma-post": "{patient}_{session}",
    "upenn-gbm": "{patient}_{session}",
    "ucsf-pdgm": "{patient}",
    "cuimc": "{patient}/{session}",
}
"""How each release spells a scan; BraTS writes `{patient}-{session}`."""


FAULTS = ("missing sequence", "truncated file", "label typo", "double patient")
"""What a recipe can plant."""


@dataclass(frozen=True)
class Plan:
    """Tables of the study.

    Attributes:
        patients: one row a patient: cohort patient person diagnosis age sex, true value of every endpoint,
            `latent_*`, log_hazard os_days event. `person` is equal for one person under two ids.
        released: like `patients`, endpoints only; NaN where the release's table does not tell.
        scans: one row a time point: cohort patient person session scan days growth treated grid, and the planted
            faults of its files: `missing` and `truncated` hold a sequence or "".
        faults: what the run must report: kind cohort patient scan stage keyword, and details.
    """

    patients: pd.DataFrame
    released: pd.DataFrame
    scans: pd.DataFrame
    faults: list[dict[str, Any]]


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe, as plain data.

    Raises:
        InputError: unreadable, or a cohort that no writer knows.
    """
    recipe = read_yaml(path)
    if not isinstance(recipe, dict) or not isinstance(recipe.get("cohorts"), dict):
        raise InputError(f"phantom recipe {path}: has no `cohorts`; start from resources/phantom.yaml")
    unknown = sorted(set(recipe["cohorts"]) - set(PATIENT_NAMES))
    if unknown:
        raise InputError(
            f"phantom recipe {path}: unknown cohort {', '.join(unknown)}; known: {', '.join(sorted(PATIENT_NAMES))}"
        )
    kinds = sorted({fault.get("kind") for fault in recipe.get("faults", [])} - set(FAULTS), key=str)
    if kinds:
        raise InputError(f"phantom recipe {path}: unknown fault {kinds[0]!r}; known: {', '.join(FAULTS)}")
    return recipe


def shares_of(total: int, shares: dict[str, float]) -> list[str]:
    """`total` names in proportion to `shares`, by largest remainder (ties: the order of `shares`)."""
    exact = np.array(list(shares.values()), float) * total / sum(shares.values())
    counts = np.floor(exact).astype(int)
    rest = np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]
    counts[rest] += 1
    return [name for name, count in zip(shares, counts, strict=True) for _ in range(count)]


def exactly(rng: np.random.Generator, total: int, share: float) -> np.ndarray:
    """`total` booleans, of which round(share x total) are True, in random order."""
    return rng.permutation(np.arange(total) < int(np.floor(share * total + 0.5)))


def plan(recipe: dict[str, Any], seed: int, scale: float) -> Plan:
    """The whole study. Same recipe, seed and scale: the same tables, on any machine.

    Args:
        recipe: as `read_recipe` returns it.
        seed: of the study.
        scale: factor on every cohort's number of patients; at least `recipe["minimum"]` patients stay.

    Raises:
        InputError: `scale` is not positive, or a fault points past the end of a cohort.
    """
    if not 0 < scale < np.inf:
        raise InputError(f"phantom scale {scale}: must be above 0 and finite; 1 is the shipped study")
    patients = pd.concat([_patients(recipe, seed, scale, cohort) for cohort in recipe["cohorts"]], ignore_index=True)
    scans = pd.concat([_scans(recipe, seed, cohort, patients) for cohort in recipe["cohorts"]], ignore_index=True)
    patients, scans, doubles = _with_doubles(recipe, patients, scans)
    released = _released(recipe, seed, patients)
    scans, faults = _with_broken_files(recipe, scans)
    released, typos = _with_typos(recipe, released, exclude={double["twin_patient"] for double in doubles})
    return Plan(patients, released, scans, faults + typos + doubles + _longitudinal(scans))


def _patients(recipe: dict[str, Any], seed: int, scale: float, cohort: str) -> pd.DataFrame:
    entry = recipe["cohorts"][cohort]
    number = max(recipe["minimum"], round(entry["patients"] * scale))
    rng = generator(seed, "labels", cohort)
    names = [PATIENT_NAMES[cohort].format(entry["first"] + k) for k in range(number)]
    table = pd.DataFrame({"cohort": cohort, "patient": names})
    table["person"] = cohort + "/" + table["patient"]
    table["kind"] = rng.permutation(shares_of(number, entry["shares"]))
    defined = recipe["diagnoses"]
    for column in ("diagnosis", "grade", "idh1", "1p19q"):
        table[column] = [defined[kind][column] for kind in table["kind"]]
    for marker, prevalence in recipe["prevalence"].items():
        table[marker] = 0
        for stratum, share in enumerate(prevalence):
            rows = table.index[table["idh1"] + table["1p19q"] == stratum]
            table.loc[rows, marker] = exactly(rng, len(rows), share).astype(int)
    traits = [_traits(recipe, seed, row) for row in table.to_dict("records")]
    return pd.concat([table, pd.DataFrame(traits)], axis=1)


def _traits(recipe: dict[str, Any], seed: int, row: dict[str, Any]) -> dict[str, Any]:
    """Age, sex, Ki-67, latents and survival of one person, from a generator of their own."""
    rng = generator(seed, "person", row["person"])
    mean, deviation = recipe["diagnoses"][row["kind"]]["age"]
    if recipe["cohorts"][row["cohort"]]["disease"] == "paediatric":
        mean, deviation = 9.0, 4.0
    age = float(np.clip(rng.normal(mean, deviation), 3 if mean < 18 else 19, 90))
    sex = "M" if rng.random() < 0.57 else "F"
    noise = dict(zip(LATENTS, rng.standard_normal(len(LATENTS)), strict=True))
    proliferation = rng.standard_normal()
    latents = {}
    for endpoint, effect in recipe["effects"].items():
        name = effect["latent"]
        if endpoint == "ki67":
            r = effect["correlation"]
            latents[name] = r * proliferation + np.sqrt(1 - r**2) * noise[name]
        else:
            positive = row["grade"] >= 4 if endpoint == "grade" else row[endpoint] == 1
            latents[name] = noise[name] + effect["effect"] * (float(positive) - 0.5)
    ki67 = recipe["effects"]["ki67"]
    hazard = recipe["survival"]
    log_hazard = (
        sum(hazard[name] * latents[name] for name in ("necrosis", "size", "enhancing"))
        + hazard["age_decade"] * (age - 60) / 10
        + hazard["idh1"] * row["idh1"]
    )
    days = hazard["scale"] * (rng.exponential() / np.exp(log_hazard)) ** (1 / hazard["shape"])
    low, high = recipe["cohorts"][row["cohort"]].get("followup", (500, 2000))
    censored_at = rng.uniform(low, high)
    return {
        "age": round(age, 2),
        "sex": sex,
        "ki67": round(float(np.clip(ki67["median"] * np.exp(ki67["log_sd"] * proliferation), 1, 95))),
        **{f"latent_{name}": float(latents[name]) for name in LATENTS},
        "log_hazard": float(log_hazard),
        "os_days": max(1, round(min(days, censored_at))),
        "event": int(days <= censored_at),
    }


def _scans(recipe: dict[str, Any], seed: int, cohort: str, patients: pd.DataFrame) -> pd.DataFrame:
    entry = recipe["cohorts"][cohort]
    names = SESSION_NAMES.get(cohort, ("000",))
    rows: list[dict[str, Any]] = []
    for position, row in enumerate(patients[patients["cohort"] == cohort].to_dict("records")):
        rng = generator(seed, "sessions", row["person"])
        for time in range(entry["sessions"][position % len(entry["sessions"])]):
            session = names[time]
            scan = SCAN_NAMES.get(cohort, "{patient}-{session}").format(patient=row["patient"], session=session)
            rows.append(
                {
                    **{key: row[key] for key in ("cohort", "patient", "person")},
                    "session": session,
                    "scan": scan,
                    "days": 0 if time == 0 else int(rng.integers(70, 320)),
                    "growth": 1.0 if time == 0 else float(rng.uniform(0.8, 1.35)),
                    # LUMIERE's first time point is before surgery; the other post-treatment releases have none.
                    "treated": bool(entry.get("treated", False)) and not (cohort == "lumiere" and time == 0),
                    "grid": "native" if len(rows) in entry.get("native", []) else entry["grid"],
                }
            )
    return pd.DataFrame(rows).assign(missing="", truncated="")


def _fault(entry: dict[str, Any], patient: str, scan: str, **details: Any) -> dict[str, Any]:
    common = {key: entry[key] for key in ("kind", "cohort", "stage", "keyword")}
    return {**common, "patient": patient, "scan": scan, **details}


def _row(table: pd.DataFrame, cohort: str, at: int) -> int:
    rows = table.index[table["cohort"] == cohort]
    if not 0 <= at < len(rows):
        raise InputError(f"phantom recipe: fault `at: {at}` is past the end of {cohort} ({len(rows)}); lower `at`")
    return rows[at]


def _with_doubles(
    recipe: dict[str, Any], patients: pd.DataFrame, scans: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """One person under two ids: all but cohort and patient id is copied from the twin."""
    patients, scans, faults = patients.copy(), scans.copy(), []
    for entry in (fault for fault in recipe["faults"] if fault["kind"] == "double patient"):
        here = _row(patients, entry["cohort"], entry["at"])
        twin = patients.loc[_row(patients, entry["twin"]["cohort"], entry["twin"]["at"])]
        copied = patients.columns.difference(["cohort", "patient"])
        patients.loc[here, copied] = twin[copied]
        patient = patients.loc[here, "patient"]
        own = (scans["cohort"] == entry["cohort"]) & (scans["patient"] == patient)
        scans.loc[own, "person"] = twin["person"]
        scan = scans.loc[own, "scan"].iloc[0]
        faults.append(_fault(entry, patient, scan, twin_cohort=twin["cohort"], twin_patient=twin["patient"]))
    return patients, scans, faults


def _released(recipe: dict[str, Any], seed: int, patients: pd.DataFrame) -> pd.DataFrame:
    """Endpoints as each release's table tells them; cohorts without a table tell nothing."""
    tables = {"ucsf-pdgm": ("idh1", "mgmt", "1p19q", "grade"), "upenn-gbm": ("idh1", "mgmt"), "cuimc": ENDPOINTS}
    released = patients[["cohort", "patient", *ENDPOINTS]].astype(dict.fromkeys(ENDPOINTS, float))
    for cohort in recipe["cohorts"]:
        rows = released.index[released["cohort"] == cohort]
        rng = generator(seed, "known", cohort)
        for endpoint in ENDPOINTS:
            share = recipe["cohorts"][cohort].get("known", {}).get(endpoint, 1.0)
            known = exactly(rng, len(rows), share if endpoint in tables.get(cohort, ()) else 0.0)
            if endpoint == "idh1":  # the few mutants stay known
                known |= released.loc[rows, "idh1"].eq(1).to_numpy() & (endpoint in tables.get(cohort, ()))
            released.loc[rows[~known], endpoint] = np.nan
    # A co-deleted oligodendroglioma is named so in the diagnosis: UCSF's table never has it unknown.
    named = (released["cohort"] == "ucsf-pdgm") & (patients["1p19q"] == 1)
    released.loc[named, "1p19q"] = 1.0
    return released


def _with_broken_files(recipe: dict[str, Any], scans: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    scans, faults = scans.copy(), []
    columns = {"missing sequence": "missing", "truncated file": "truncated"}
    for entry in (fault for fault in recipe["faults"] if fault["kind"] in columns):
        row = _row(scans, entry["cohort"], entry["at"])
        scans.loc[row, columns[entry["kind"]]] = entry["sequence"]
        patient, scan = scans.loc[row, ["patient", "scan"]]
        faults.append(_fault(entry, patient, scan, sequence=entry["sequence"]))
    return scans, faults


def _with_typos(
    recipe: dict[str, Any], released: pd.DataFrame, exclude: set[str]
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A misspelt `positive` makes a patient unusable: the first methylated one of the cohort gets it."""
    released, faults = released.copy(), []
    for entry in (fault for fault in recipe["faults"] if fault["kind"] == "label typo"):
        known = released[
            (released["cohort"] == entry["cohort"]) & (released["mgmt"] == 1) & ~released["patient"].isin(exclude)
        ]
        if known.empty:
            raise InputError(f"phantom recipe: no methylated patient in {entry['cohort']} to misspell; drop the typo")
        # The patient leaves the study with all labels, so none of them counts towards what can be found.
        released.loc[known.index[0], list(ENDPOINTS)] = np.nan
        details = {"column": entry["column"], "written": entry["written"]}
        faults.append(_fault(entry, known["patient"].iloc[0], "", **details))
    return released, faults


def _longitudinal(scans: pd.DataFrame) -> list[dict[str, Any]]:
    """Patients with several time points: nothing is wrong with them, but a split must never divide them."""
    return [
        {
            "kind": "longitudinal patient",
            "cohort": cohort,
            "patient": patient,
            "scan": "",
            "scans": sorted(group["scan"]),
            "stage": "leakage",
            "keyword": patient,
        }
        for (cohort, patient), group in scans.groupby(["cohort", "patient"], sort=True)
        if len(group) > 1
    ]
