"""Who is evaluated, and who is held out when: drawn once, saved, shared by every encoder."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from neurorad.endpoints import TIMES, Endpoint, binary
from neurorad.problems import InputError
from neurorad.seeds import generator

COLUMNS = ("endpoint", "protocol", "site", "repeat", "fold", "cohort", "patient", "scan", "label", "cutoff")
KEY = ["cohort", "patient"]
OUTCOMES = tuple(column for columns in TIMES.values() for column in columns)
POOLED = "all"
"""`site` of everything that pools the sites."""
TRAINED_ONLY = -1
"""`fold` of a patient who is trained on and never tested (the training sites of leave-one-site-out)."""


@dataclass(frozen=True)
class Cell:
    """One endpoint under one protocol at one site: a table of `COLUMNS`, all repeats.

    In each repeat the rows of fold k are tested on what the rows of all other folds taught.
    """

    endpoint: str
    protocol: str
    site: str
    table: pd.DataFrame

    @property
    def patients(self) -> pd.DataFrame:
        """The rows of the first repeat: every patient once, in the order of the file."""
        return self.table[self.table["repeat"] == 0].reset_index(drop=True)

    @property
    def tested(self) -> pd.DataFrame:
        """The patients who are tested in some fold, not those who are only trained on."""
        patients = self.patients
        return patients[patients["fold"] != TRAINED_ONLY].reset_index(drop=True)

    def assignments(self) -> np.ndarray:
        """`[repeats, n]` fold of each patient, in the order of `patients`."""
        return np.stack([part["fold"].to_numpy() for _, part in self.table.groupby("repeat", sort=True)])

    def fewest_taught(self, positive: np.ndarray) -> int:
        """The fewest positives (0/1 `[n]`, in the order of `patients`) that any model of the cell is trained on."""
        return min(
            int(positive[fold_of != fold].sum())
            for fold_of in self.assignments()
            for fold in np.unique(fold_of[fold_of != TRAINED_ONLY])
        )


def cells(folds: pd.DataFrame) -> Iterator[Cell]:
    """The cells of a fold table, in its order."""
    for (endpoint, protocol, site), table in folds.groupby(["endpoint", "protocol", "site"], sort=False):
        yield Cell(endpoint, protocol, site, table)


def analysis_set(volumes: pd.DataFrame) -> pd.DataFrame:
    """One scan a patient: the earliest session whose volume has status ok. Columns cohort, patient, scan.

    Sessions are ordered as people read them ("week-9" before "week-10").

    Raises:
        InputError: no usable volume at all, or a scan listed twice.
    """
    usable = volumes[volumes["status"] == "ok"]
    if usable.empty:
        raise InputError("--volumes: no volume with status ok at any site; nothing can be evaluated")
    twice = usable[usable.duplicated(["cohort", "scan"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(f"--volumes: scan {row['scan']} of {row['cohort']} is listed twice; give each file once")
    order = [
        _reading_order(f"{session}/{scan}") for session, scan in zip(usable["session"], usable["scan"], strict=True)
    ]
    usable = usable.assign(order=order).sort_values([*KEY, "order"], kind="stable")
    return usable.drop_duplicates(KEY)[["cohort", "patient", "scan"]].reset_index(drop=True)


def _reading_order(text: str) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text))


def check_labels(patients: pd.DataFrame, known: dict[str, Endpoint]) -> pd.DataFrame:
    """The patients with every endpoint, time and event as float columns (an absent column is all unknown).

    Raises:
        InputError: a patient twice; a label that is text, not 0/1, negative or infinite.
    """
    if patients.duplicated(KEY).any():
        cohort = patients.loc[patients.duplicated(KEY), "cohort"].iloc[0]
        raise InputError(f"--patients: a patient of {cohort} has two rows; patients.tsv holds one row a patient")
    table = patients.copy()
    events = {event for _, event in TIMES.values()}
    for name in (*known, *OUTCOMES):
        values = table[name] if name in table else pd.Series(np.nan, index=table.index)
        numbers = pd.to_numeric(values, errors="coerce")
        text = values.notna() & numbers.isna()
        if text.any():
            row = table[text].iloc[0]
            raise InputError(
                f"--patients: column {name} of {row['cohort']} holds the text {row[name]!r}; labels are numbers "
                f"(0, 1 or empty): make patients.tsv with `neurorad cohort`"
            )
        if name in events or (name in known and known[name].kind == "binary"):
            wrong = numbers.notna() & ~numbers.isin([0, 1])
            allowed = "0, 1 or empty"
        else:
            wrong = numbers.notna() & ~((numbers >= 0) & np.isfinite(numbers))
            allowed = "finite and not negative"
        if wrong.any():
            cohort = table.loc[wrong, "cohort"].iloc[0]
            raise InputError(
                f"--patients: column {name} of {cohort} holds {numbers[wrong].iloc[0]:g}; must be {allowed}"
            )
        table[name] = numbers.astype(float)
    return table


SURVIVAL_STEPS = ("idh_unknown", "idh_mutant", "not_glioblastoma", "no_follow_up")
"""Why a patient is not in the survival set, in the order in which the reasons are asked."""


def survival_exclusion(patients: pd.DataFrame, endpoint: str = "os") -> pd.Series:
    """For each patient the first of `SURVIVAL_STEPS` that keeps it out of the survival set, or "" for who is in.

    The set is IDH-wildtype glioblastoma with known time and event of the endpoint (a key of `TIMES`): `idh1` is known and 0 (a patient whose IDH was never
    settled is not wildtype, whatever the cohort), and the diagnosis says glioblastoma, or is empty and the WHO grade is
    4. UPENN's "NOS/NEC" is unknown IDH (strict), unless the config says `labels: {idh_not_specified: wildtype}`
    (lenient).
    """
    days, event = TIMES[endpoint]
    reasons = [
        patients["idh1"].isna(),
        patients["idh1"] != 0,
        ~is_glioblastoma(patients),
        patients[days].isna() | patients[event].isna(),
    ]
    return pd.Series(np.select(reasons, SURVIVAL_STEPS, ""), index=patients.index)


def is_glioblastoma(patients: pd.DataFrame) -> pd.Series:
    """IDH-wildtype glioblastoma by diagnosis, or by WHO grade 4 where no diagnosis is given (boolean)."""
    if "diagnosis" in patients:
        diagnosis = patients["diagnosis"].fillna("").astype(str)
    else:
        diagnosis = pd.Series("", index=patients.index)
    said = diagnosis.str.contains("glioblastoma", case=False)
    by_grade = (diagnosis.str.strip() == "") & (patients["grade"] == 4)
    return (patients["idh1"] == 0) & (said | by_grade)


def glioblastoma_survival(patients: pd.DataFrame, endpoint: str = "os") -> pd.Series:
    """Which patients belong to the survival set (boolean)."""
    return survival_exclusion(patients, endpoint) == ""


def deal(strata: np.ndarray, folds: int, random: np.random.Generator) -> np.ndarray:
    """Fold `[n]` of each row: every stratum is shuffled and dealt out in turn, so that folds and strata are balanced."""
    order = np.concatenate([random.permutation(np.flatnonzero(strata == value)) for value in np.unique(strata)])
    fold = np.empty(len(strata), dtype=np.int64)
    fold[order] = np.arange(len(strata)) % folds
    return fold


def fold_table(
    analysis: pd.DataFrame,
    patients: pd.DataFrame,
    known: dict[str, Endpoint],
    folds: int = 5,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """The folds of every endpoint and protocol, in `COLUMNS`.

    Protocols: `within_site` (stratified by label), `combined` (all sites pooled, stratified by label x site) and
    `leave_one_site_out` (`site` reads `a+b->c`; one fold; training patients have fold -1). `label` is the value as
    patients.tsv has it (per cent for Ki-67, 2-4 for grade), and a number at or above `cutoff` is positive; for `os` and
    `pfs` it is the event. The endpoint `site`, without label, holds everybody: it is what the site probe runs on.

    Args:
        analysis: of `analysis_set`; patients: of `check_labels`.

    Raises:
        InputError: fewer than 2 folds or 1 repeat, or a cohort none of whose patients has a row in patients.tsv.
    """
    if folds < 2 or repeats < 1:
        raise InputError(f"--folds {folds} --repeats {repeats}: needs at least 2 folds and 1 repeat")
    wanted = [*KEY, *known, *OUTCOMES]
    optional = [name for name in ("diagnosis",) if name in patients]
    table = analysis.merge(patients[[*wanted, *optional]], on=KEY, how="left", indicator=True)
    for cohort, part in table.groupby("cohort"):
        if (part["_merge"] == "left_only").all():
            raise InputError(
                f"--patients: no patient with a volume in {cohort} has a row; are both files of one cohort?"
            )
    table = table.sort_values(KEY, ignore_index=True)
    sites = sorted(table["cohort"].unique())
    parts: list[pd.DataFrame] = []

    def add(
        endpoint: str, rows: pd.DataFrame, label: np.ndarray, strata: np.ndarray, pooled_only: bool = False
    ) -> None:
        rows = rows.assign(label=label, stratum=strata)
        # Label first: carriers of different sites follow each other and are dealt to different folds.
        both = rows["stratum"].astype(str) + "/" + rows["cohort"]
        parts.extend(_repeated(endpoint, "combined", POOLED, rows, both.to_numpy(), folds, repeats, seed))
        if pooled_only:
            return
        for site in sites:
            mine = rows[rows["cohort"] == site]
            if len(mine):
                strata = mine["stratum"].to_numpy()
                parts.extend(_repeated(endpoint, "within_site", site, mine, strata, folds, repeats, seed))
        for site in sites:
            if len(sites) > 1 and (rows["cohort"] == site).any():
                trained = sorted(set(rows["cohort"]) - {site})
                fold = np.where(rows["cohort"] == site, 0, TRAINED_ONLY)
                text = f"{'+'.join(trained) or 'none'}->{site}"
                parts.append(_rows(endpoint, "leave_one_site_out", text, 0, fold, rows))

    for name, endpoint in known.items():
        rows = table[table[name].notna()]
        if len(rows):
            add(name, rows, rows[name].to_numpy(), binary(rows[name], endpoint).to_numpy())
    for name, (_, event) in TIMES.items():
        rows = table[glioblastoma_survival(table, name)]
        if len(rows):
            add(name, rows, rows[event].to_numpy(), rows[event].to_numpy())
    add("site", table, np.full(len(table), np.nan), np.zeros(len(table)), pooled_only=True)
    drawn = pd.concat(parts, ignore_index=True)
    cutoffs = {name: endpoint.cutoff for name, endpoint in known.items()}
    return drawn.assign(cutoff=drawn["endpoint"].map(cutoffs).astype(float))[list(COLUMNS)]


def _repeated(
    endpoint: str, protocol: str, site: str, rows: pd.DataFrame, strata: np.ndarray, folds: int, repeats: int, seed: int
) -> Iterator[pd.DataFrame]:
    for repeat in range(repeats):
        random = generator(seed, "folds", endpoint, protocol, site, repeat)
        yield _rows(endpoint, protocol, site, repeat, deal(strata, folds, random), rows)


def _rows(endpoint: str, protocol: str, site: str, repeat: int, fold: np.ndarray, rows: pd.DataFrame) -> pd.DataFrame:
    where = {"endpoint": endpoint, "protocol": protocol, "site": site, "repeat": repeat}
    return rows.assign(**where, fold=fold)[list(COLUMNS[:-1])]


def accounting(
    analysis: pd.DataFrame, patients: pd.DataFrame, known: dict[str, Endpoint], folds: pd.DataFrame
) -> pd.DataFrame:
    """Where the patients of each site went, by endpoint: the n of every probe adds up with those left out to the volumes.

    Columns cohort, endpoint, evaluated (patients with a usable volume, as in the flow of scans), unlisted (no row in
    patients.tsv), unlabelled (label unknown), labelled, positive.

    Args:
        analysis: of `analysis_set`. patients: of `check_labels`. folds: of `fold_table`.

    Raises:
        ArithmeticError: the folds do not hold exactly the labelled patients.
    """
    table = analysis.merge(patients[[*KEY, *known]], on=KEY, how="left", indicator="listed")
    drawn = folds[(folds["protocol"] == "within_site") & (folds["repeat"] == 0)]
    rows = []
    for cohort, part in table.groupby("cohort"):
        listed = part["listed"] == "both"
        for name, endpoint in known.items():
            label = binary(part[name], endpoint)
            labelled = int(label.notna().sum())
            held = int(((drawn["endpoint"] == name) & (drawn["site"] == cohort)).sum())
            if held != labelled:
                raise ArithmeticError(f"{name} at {cohort}: {labelled} labelled patients, but {held} in the folds")
            left = {"unlisted": int((~listed).sum()), "unlabelled": int((listed & label.isna()).sum())}
            counted = {"labelled": labelled, "positive": int((label == 1).sum())}
            rows.append({"cohort": cohort, "endpoint": name, "evaluated": len(part), **left, **counted})
    return pd.DataFrame(rows)


def endpoints_of(folds: pd.DataFrame, known: dict[str, Endpoint]) -> dict[str, Endpoint]:
    """The endpoints with the cut-offs by which the folds were drawn, so that all are scored by the same."""
    drawn = folds.dropna(subset="cutoff").drop_duplicates("endpoint").set_index("endpoint")["cutoff"]
    return {name: replace(each, cutoff=float(drawn[name])) if name in drawn else each for name, each in known.items()}


def check_folds(folds: pd.DataFrame) -> pd.DataFrame:
    """The table as it is.

    Raises:
        InputError: a column is missing, there are no rows, or the labels are text.
    """
    missing = [column for column in COLUMNS if column not in folds]
    if missing:
        raise InputError(f"--folds: lacks the columns {', '.join(missing)}; make it with `neurorad folds`")
    if folds.empty:
        raise InputError("--folds: no rows, so no site at all; make it with `neurorad folds`")
    if not pd.api.types.is_numeric_dtype(folds["label"]):
        raise InputError(f"--folds: labels are text ({folds['label'].iloc[0]!r}); they must be numbers")
    return folds
