"""How BraTS has named files since 2023: `BraTS-TASK-subject-timepoint/BraTS-TASK-subject-timepoint-sequence.nii.gz`."""

NAMES = {"t1n": "t1n", "t1c": "t1c", "t2w": "t2w", "t2f": "t2f", "tumour": "seg"}


def brats_files(task: str, session: str = r"\d{3}") -> dict[str, tuple[str]]:
    """Pattern of each file of a task (`GLI`, `MEN`, ...) whose time point matches `session`."""
    folder = rf"(?:.*/)?(?P<patient>BraTS-{task}-\d{{5}})-(?P<session>{session})"
    return {ours: (rf"{folder}/(?P=patient)-(?P=session)-{theirs}\.nii\.gz",) for ours, theirs in NAMES.items()}
