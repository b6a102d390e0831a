"""What happens to a patient on the way (treatment, progression) beside the risk that the first scan gave."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxTimeVaryingFitter
from lifelines.exceptions import ConvergenceError, StatisticalWarning

from neurorad.evaluation.prognosis import row
from neurorad.evaluation.tidy import NEEDED


def _when(column: str) -> Callable[[pd.DataFrame], np.ndarray]:
    def days(patients: pd.DataFrame) -> np.ndarray:
        return patients[column].to_numpy(float) if column in patients else np.full(len(patients), np.nan)

    return days


def _progression(patients: pd.DataFrame) -> np.ndarray:
    return np.where(patients["progressed"] == 1, patients["pfs_days"], np.nan)


CHANGES: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "progression": _progression,
    "radiotherapy": _when("radiotherapy_days"),
    "chemotherapy": _when("chemotherapy_days"),
}
"""Change -> the day on which it happened to each patient (columns of patients.tsv); NaN where it never did."""


def intervals(days: np.ndarray, event: np.ndarray, changed: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Columns patient (place in the arrays), start, stop, event, and 0/1 of each change: one row an interval.

    A change on day d counts from d on; on or after the last day it counts for nothing, before day 0 from the start. An
    end on day 0 is moved to half a day, as an interval has a length.
    """
    rows = []
    for patient, (end, died) in enumerate(zip(np.maximum(days, 0.5), event, strict=True)):
        when = {name: at[patient] for name, at in changed.items()}
        cuts = sorted({0.0, *(at for at in when.values() if 0 < at < end)})
        for start, stop in zip(cuts, [*cuts[1:], end], strict=True):
            state = {name: float(at <= start) for name, at in when.items()}
            rows.append({"patient": patient, "start": start, "stop": stop, "event": died * (stop == end), **state})
    return pd.DataFrame(rows)


def time_varying_rows(
    risk: np.ndarray, days: np.ndarray, event: np.ndarray, strata: np.ndarray, changed: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Hazard ratios of a Cox model with time-varying covariates, baseline by site (lifelines, no penalty).

    `hr_per_sd_time_varying` is that of the risk with the changes known, `hr_after_CHANGE` that of having had the change.

    Args:
        risk: `[n]` out of fold. days, event, strata: `[n]`. changed: name -> day `[n]`, NaN never.
    """
    names = {"risk": "hr_per_sd_time_varying", **{name: f"hr_after_{name}" for name in changed}}
    counts = {name: int(((at < np.maximum(days, 0.5)) & np.isfinite(at)).sum()) for name, at in changed.items()}
    used = [name for name, n in counts.items() if min(n, len(days) - n) >= NEEDED]
    told = {name: f"{n} of {len(days)} patients before the end" for name, n in counts.items()}
    few = {
        name: f"not estimable: {told[name]} (needs {NEEDED} with and without)" for name in counts if name not in used
    }
    rows = [row(names[name], note=reason) for name, reason in few.items()]
    if not used:
        return [row(names["risk"], note="not estimable: nothing changes in enough patients"), *rows]
    table = intervals(days, event, {name: changed[name] for name in used})
    spread = risk.std()
    table["risk"] = risk[table["patient"]] / (spread if spread > 1e-9 else np.inf)
    table["site"] = strata[table["patient"]]
    columns = (["risk"] if spread > 1e-9 else []) + used
    fit = _fit(table[["patient", "start", "stop", "event", "site", *columns]])
    for name in ("risk", *used):
        if fit is None or name not in columns:
            rows.append(row(names[name], note="not estimable: the hazard ratio is not finite"))
            continue
        ratio = np.exp(fit.loc[name, ["coef", "coef lower 95%", "coef upper 95%"]].to_numpy(float))
        value, low, high = ratio
        rows.append(row(names[name], value, low, high, note=told.get(name, f"with {', '.join(used)} known")))
    return rows


def _fit(table: pd.DataFrame) -> pd.DataFrame | None:
    """lifelines' summary, or None where the likelihood has no maximum."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticalWarning)
            warnings.simplefilter("error", RuntimeWarning)
            summary = CoxTimeVaryingFitter().fit(table, "event", id_col="patient", strata=["site"]).summary
    except (ConvergenceError, np.linalg.LinAlgError, RuntimeWarning, ValueError):
        return None
    finite = np.isfinite(summary[["coef", "se(coef)"]].to_numpy(float)).all() and (summary["se(coef)"] < 10).all()
    return summary if finite else None
