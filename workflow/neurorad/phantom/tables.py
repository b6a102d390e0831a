"""Label tables in the columns and spellings of the real releases (UCSF-PDGM v5, UPENN-GBM v2.1, and our own for CUIMC)."""

import numpy as np
import pandas as pd

from neurorad.phantom.plan import ENDPOINTS, Plan
from neurorad.seeds import generator

_IDH_MUTATIONS = ("IDH1 p.R132H", "IDH1 p.R132H", "IDH1 p.R132H", "mutated (NOS)", "IDH1 p.R132C", "IDH2 p.R172K")


def ucsf(plan: Plan, seed: int) -> pd.DataFrame:
    """UCSF-PDGM-metadata_v5.csv: three-digit ids, `unknown`, free-text IDH, the BraTS 2021 id of a shared patient."""
    braTS = {fault["twin_patient"]: fault["patient"] for fault in plan.faults if fault["kind"] == "double patient"}
    typos = {fault["patient"]: fault for fault in plan.faults if fault["kind"] == "label typo"}
    rows = []
    for person, known in _with_labels(plan, "ucsf-pdgm"):
        rng = generator(seed, "table", person["patient"])
        number = int(person["patient"].rsplit("-", 1)[1])
        mgmt = _spelled(known["mgmt"], "positive", "negative", "unknown")
        mgmt = typos[person["patient"]]["written"] if person["patient"] in typos else mgmt
        index = {"positive": int(rng.integers(1, 18)), "negative": 0}.get(mgmt, "unknown")
        codeleted = "Co-deletion" if rng.random() < 0.2 else "co-deletion"  # both spellings stand in the real table
        twin = braTS.get(person["patient"])
        rows.append(
            {
                "ID": f"UCSF-PDGM-{number:03d}",
                "Sex": person["sex"],
                "Age at MRI": round(person["age"]),
                "WHO CNS Grade": person["grade"],
                "Final pathologic diagnosis (WHO 2021)": _diagnosis(person),
                "MGMT status": mgmt,
                "MGMT index": index,
                "1p/19q": _spelled(
                    known["1p19q"], codeleted if person["grade"] > 2 else "co-deletion", "intact", "unknown"
                ),
                "IDH": str(rng.choice(_IDH_MUTATIONS)) if person["idh1"] else "wildtype",
                "1-dead 0-alive": person["event"],
                "OS": person["os_days"],
                "EOR": str(rng.choice(["GTR", "STR", "biopsy"], p=[0.5, 0.4, 0.1])),
                "Biopsy prior to imaging": "Yes" if rng.random() < 0.14 else "No",
                "BraTS21 ID": f"BraTS2021_{twin.rsplit('-', 1)[1]}" if twin else "",
                "BraTS21 Segmentation Cohort": "Training" if twin else "",
                "BraTS21 MGMT Cohort": "Training" if twin else "",
            }
        )
    return pd.DataFrame(rows)


def upenn(plan: Plan, seed: int) -> pd.DataFrame:
    """UPENN-GBM_clinical_info_v2.1.csv: one row a scan; who is not deceased has the time in `Survival_Censor`."""
    rows = []
    scans = plan.scans[plan.scans["cohort"] == "upenn-gbm"]
    for person, known in _with_labels(plan, "upenn-gbm"):
        for scan in scans[scans["patient"] == person["patient"]].to_dict("records"):
            rng = generator(seed, "table", scan["scan"])
            follow_up = scan["session"] == "21"
            # Survival of a follow-up row counts from that scan, which the patient was alive for.
            shift = min(scan["days"], max(person["os_days"] - 20, 0)) if follow_up else 0
            days = max(1, person["os_days"] - shift)
            alive = "Alive" if generator(seed, "status", person["patient"]).random() < 0.7 else "Lost to Follow-up"
            rows.append(
                {
                    "ID": scan["scan"],
                    "Gender": person["sex"],
                    "Age_at_scan_years": round(person["age"] + shift / 365.25, 2),
                    "Survival_from_surgery_days_UPDATED": days if person["event"] else "Not Available",
                    "Survival_Status": "Deceased" if person["event"] else alive,
                    "Survival_Censor": "Not Available" if person["event"] else days,
                    "IDH1": _spelled(known["idh1"], "Mutated", "Wildtype", "NOS/NEC"),
                    "MGMT": _spelled(
                        known["mgmt"],
                        "Methylated",
                        "Unmethylated",
                        str(rng.choice(["Not Available", "Not Available", "Indeterminate"])),
                    ),
                    "KPS": "Not Available" if rng.random() < 0.85 else int(rng.choice([60, 70, 80, 90])),
                    "GTR_over90percent": "Not Applicable" if follow_up else str(rng.choice(["Y", "N"], p=[0.63, 0.37])),
                    "Time_since_baseline_preop": shift,
                    "PsP_TP_score": int(rng.integers(1, 7)) if follow_up else "NA",
                }
            )
    return pd.DataFrame(rows)


def cuimc(plan: Plan, seed: int) -> pd.DataFrame:
    """cuimc.csv, the documented schema of a hospital's own cohort: 1, 0 or empty."""
    del seed
    rows = []
    for person, known in _with_labels(plan, "cuimc"):
        row = {"patient": person["patient"], "age": round(person["age"]), "sex": person["sex"]}
        labels = {name: "" if np.isnan(known[name]) else int(known[name]) for name in ENDPOINTS}
        row |= {"grade": labels.pop("grade"), "diagnosis": person["diagnosis"], **labels}
        rows.append(row | {"os_days": person["os_days"], "event": person["event"]})
    return pd.DataFrame(rows)


TABLES = {
    "ucsf-pdgm": ("UCSF-PDGM-metadata_v5.csv", ucsf),
    "upenn-gbm": ("UPENN-GBM_clinical_info_v2.1.csv", upenn),
    "cuimc": ("cuimc.csv", cuimc),
}
"""File name and maker of each release's label table."""


def _with_labels(plan: Plan, cohort: str) -> list[tuple[dict, dict]]:
    people = plan.patients[plan.patients["cohort"] == cohort].to_dict("records")
    released = plan.released[plan.released["cohort"] == cohort].to_dict("records")
    return list(zip(people, released, strict=True))


def _spelled(value: float, positive: str, negative: str, unknown: str) -> str:
    return unknown if np.isnan(value) else positive if value else negative


def _diagnosis(person: dict) -> str:
    if person["diagnosis"] == "oligodendroglioma":
        return "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted"
    kind = "Glioblastoma" if person["diagnosis"] == "glioblastoma" else "Astrocytoma"
    return f"{kind}, IDH-{'mutant' if person['idh1'] else 'wildtype'}"
