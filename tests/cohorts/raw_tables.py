"""Raw tables of text cells, as releases have them, with cells to change."""

import pandas as pd

from neurorad.cohorts.label_tables import dictionaries
from neurorad.cohorts.labels import MARKERS


def table(release, *rows, **columns):
    """A raw table of text cells; a release's dictionary number 0 reads it."""
    raw = pd.DataFrame(rows or [columns], dtype=str).fillna("")
    return raw.set_index(pd.RangeIndex(2, len(raw) + 2)), dictionaries(release)[0]


def ucsf(**changes):
    row = {"ID": "UCSF-PDGM-004", "Sex": "M", "Age at MRI": "66", "WHO CNS Grade": "4", "MGMT status": "negative"}
    row |= {"Final pathologic diagnosis (WHO 2021)": "Glioblastoma, IDH-wildtype", "1p/19q": "unknown"}
    row |= {"IDH": "wildtype", "1-dead 0-alive": "1", "OS": "1303", "EOR": "STR", "BraTS21 ID": "BraTS2021_00097"}
    return row | changes


def own(**changes):
    row = dict.fromkeys(MARKERS, "") | {"patient": "A1", "age": "66", "sex": "M", "grade": "4", "ki67": "20"}
    return row | {"diagnosis": "glioblastoma", "os_days": "400", "event": "1"} | changes


def counts(column):
    return column.eq(1).sum(), column.eq(0).sum(), column.isna().sum()
