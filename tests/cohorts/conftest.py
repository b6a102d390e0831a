import pytest

from neurorad.cohorts.label_tables import read_labels
from neurorad.cohorts.labels import harmonise

REAL = {
    "UCSF-PDGM-metadata_v2.csv": "ucsf-pdgm",
    "UCSF-PDGM-metadata_v5.csv": "ucsf-pdgm",
    "UPENN-GBM_clinical_info_v2.1.csv": "upenn-gbm",
    "MU-Glioma-Post_ClinicalData-July2025.xlsx": "mu-glioma-post",
    "BraTS2020_survival_info.csv": "brats-gli-pre",
    "BraTS_name_mapping.csv": "brats-gli-pre",
}


class Tables(dict):
    def __repr__(self):
        return "the real tables"


@pytest.fixture(scope="session")
def real(shared):
    """File name -> raw table, rules, exams; the tables have no problem."""
    read = Tables()
    for name, release in REAL.items():
        raw, rules = read_labels(shared / "tables" / name, release)
        exams, problems, _ = harmonise(raw, rules, release)
        assert problems == [], name
        assert len(exams) == len(raw)
        read[name] = raw, rules, exams
    return read
