"""A data set in the Brain Imaging Data Structure.

Source: Gorgolewski 2016 (doi 10.1038/sdata.2016.44) and the BIDS specification 1.10, anatomy imaging data.

Images: `sub-*/[ses-*/]anat/`: `T1w` without the entity `ce` is t1n, with it (`ce-gadolinium`) t1c; `T2w`, `FLAIR`.
The entities `acq`, `rec` and `run` may stand in the name; two images for one sequence leave the scan out, as BIDS does
not say which is the better.
State: BIDS does not tell; `state:` in the cohort's block says it.
Mask: none, as BIDS puts them below `derivatives` under free names.
Ignored: other kinds of data, `derivatives`, `sourcedata`, `code`, `stimuli`.
Time points: `ses-*`, in the order of their names.
Labels: `participants.tsv`, as `resources/labels/bids.yaml` reads it.
"""

from neurorad.cohorts.release import Release

_ANAT = r"(?P<patient>sub-[A-Za-z0-9]+)/(?:(?P<session>ses-[A-Za-z0-9]+)/)?anat/(?P=patient)(?(session)_(?P=session))"
_ACQUIRED, _RUN = r"(?:_acq-[A-Za-z0-9]+)?", r"(?:_rec-[A-Za-z0-9]+)?(?:_run-[0-9]+)?"
_NAMES = {"t1n": f"{_RUN}_T1w", "t1c": f"_ce-[A-Za-z0-9]+{_RUN}_T1w", "t2w": f"{_RUN}_T2w", "t2f": f"{_RUN}_FLAIR"}

BIDS = Release(
    name="bids",
    files={ours: (rf"{_ANAT}{_ACQUIRED}{theirs}\.nii(?:\.gz)?",) for ours, theirs in _NAMES.items()},
    example="sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz",
    state=(),
    state_in_config=True,
    ignored=(
        r"(?:derivatives|sourcedata|code|stimuli)/.*",
        r"sub-[^/]+/(?:ses-[^/]+/)?(?:func|dwi|fmap|perf|meg|eeg|ieeg|beh|pet|micr|nirs|motion|mrs|swi)/.*",
    ),
)
