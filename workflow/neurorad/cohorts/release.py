"""What a release is: how it names its files, and what its documentation says of its images."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Release:
    """One release's layout, as data. Every pattern is a regular expression over the path inside the release's folder.

    Attributes:
        name: the key used in `config.yaml`.
        files: t1n, t1c, t2w, t2f and, where a mask is shipped, tumour -> patterns, with the group `patient` and, where
            there are time points, `session`. Names of patients and sessions are file names and shell words later:
            the patterns of a public release let only ASCII letters, digits, `-` and `_` through.
        example: a path as the documentation spells it, for messages.
        state: documented states of the images: `stripped` (brain only), `defaced` (head without face), `skull`
            (whole head). Several where the release mixes them.
        state_in_config: True if no document tells: `state` is what is assumed unless the cohort's block says otherwise.
        grids: documented grids (`grid_class`), the four sequences on one; empty where a scan may have any and several.
        disease: GLI, MEN, MET or PED: the tumour family of the release's patients.
        tumour_labels: values of the mask that are tumour.
        cavity_labels: values that are not: resection cavities.
        dicom: pattern of DICOM files, with `patient` and `session`; a session's folder is one scan.
        private: True if patient ids must not leave the hospital: they are replaced by pseudonyms.
        ignored: files known to be something else (other copies, other sequences).
        refused: pattern -> why; files that look like scans of this release and are none.
        renamed: patients of an older version that are time points of others: old name -> (patient, session).
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    example: str
    state: tuple[str, ...]
    state_in_config: bool = False
    grids: tuple[str, ...] = ()
    disease: str = "GLI"
    tumour_labels: tuple[int, ...] = ()
    cavity_labels: tuple[int, ...] = ()
    dicom: str | None = None
    private: bool = False
    ignored: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, tuple[str, str]] = field(default_factory=dict)


TABLES_AND_NOTES = r".*\.(csv|tsv|xlsx|xls|json|txt|md|pdf|docx|html)|(.*/)?(README|CHANGES|LICENSE)"
"""Files that no release counts as images."""
