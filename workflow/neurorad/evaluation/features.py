"""Embeddings as a matrix whose rows are the patients of a fold cell."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from neurorad.encoder_names import encoder_parts
from neurorad.evaluation.folds import Cell
from neurorad.problems import InputError

INCOMPLETE = ("clinical", "radiomics")
"""Methods that may lack patients (age or sex unknown, no tumour mask): those are left out with a note, not an error."""


def feature_columns(table: pd.DataFrame) -> list[str]:
    """e0, e1, ... in the order of their numbers."""
    return sorted((c for c in table if c[:1] == "e" and c[1:].isdigit()), key=lambda column: int(column[1:]))


class Embeddings:
    """All scans of one encoder: a matrix `[scans, d]` float64 and who each row is."""

    def __init__(self, tables: Iterable[pd.DataFrame], encoder: str) -> None:
        """Check and stack the tables of the cohorts.

        Raises:
            InputError: tables of different width, a scan twice, or a value that is not finite.
        """
        tables = list(tables)
        widths = {tuple(feature_columns(table)) for table in tables}
        if len(widths) != 1 or not next(iter(widths)):
            counts = ", ".join(str(len(width)) for width in sorted(widths, key=len))
            raise InputError(f"--embeddings: the files have {counts} features e0, e1, ...; give files of one encoder")
        table = pd.concat(tables, ignore_index=True)
        twice = table[table.duplicated(["cohort", "scan"])]
        if len(twice):
            row = twice.iloc[0]
            raise InputError(f"--embeddings: scan {row['scan']} of {row['cohort']} is there twice; give each file once")
        self.encoder = encoder
        self.columns = list(next(iter(widths)))
        self.matrix = table[self.columns].to_numpy(np.float64)
        bad = ~np.isfinite(self.matrix).all(axis=1)
        if bad.any():
            names = ", ".join(f"{row.scan} of {row.cohort}" for row in table[bad].head(3).itertuples())
            raise InputError(f"--embeddings: NaN or infinite values in {bad.sum()} scans ({names}); embed them again")
        self.rows = {
            (row.cohort, row.patient, row.scan): i
            for i, row in enumerate(table[["cohort", "patient", "scan"]].itertuples())
        }

    def cover(self, cell: Cell) -> tuple[Cell, np.ndarray, str]:
        """The cell's patients with an embedding, their features `[n, d]`, and a note on those left out.

        Raises:
            InputError: a patient without embedding, unless the encoder is one of `INCOMPLETE`.
        """
        keys = list(cell.table[["cohort", "patient", "scan"]].itertuples(index=False, name=None))
        known = np.array([key in self.rows for key in keys], dtype=bool)
        missing = {key for key, there in zip(keys, known, strict=True) if not there}
        note = ""
        if missing:
            if encoder_parts(self.encoder)[0] not in INCOMPLETE:
                scans = ", ".join(sorted(scan for _, _, scan in missing)[:3])
                raise InputError(
                    f"--embeddings: {len(missing)} patients of --folds have no embedding by {self.encoder} ({scans}...); "
                    f"give the embeddings of every test cohort, made from the same volumes"
                )
            note = f"{len(missing)} patients without {self.encoder} data left out"
        kept = Cell(cell.endpoint, cell.protocol, cell.site, cell.table[known])
        patients = kept.patients[["cohort", "patient", "scan"]].itertuples(index=False, name=None)
        index = [self.rows[key] for key in patients]
        return kept, self.matrix[index], note

    def of(self, patients: pd.DataFrame) -> np.ndarray:
        """Features `[n, d]` of patients (columns cohort, patient, scan); NaN for those without."""
        found = np.full((len(patients), len(self.columns)), np.nan)
        for i, key in enumerate(patients[["cohort", "patient", "scan"]].itertuples(index=False, name=None)):
            if key in self.rows:
                found[i] = self.matrix[self.rows[key]]
        return found
