"""The releases that NeuroRAD can read, one module each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from neurorad.cohorts.release import Release
from neurorad.cohorts.releases.bids import BIDS
from neurorad.cohorts.releases.brats_gli_post import BRATS_GLI_POST
from neurorad.cohorts.releases.brats_gli_pre import BRATS_GLI_PRE
from neurorad.cohorts.releases.brats_men import BRATS_MEN
from neurorad.cohorts.releases.brats_met import BRATS_MET
from neurorad.cohorts.releases.brats_ped import BRATS_PED
from neurorad.cohorts.releases.cuimc import CUIMC
from neurorad.cohorts.releases.generic import generic
from neurorad.cohorts.releases.lumiere import LUMIERE
from neurorad.cohorts.releases.mu_glioma_post import MU_GLIOMA_POST
from neurorad.cohorts.releases.ucsf_pdgm import UCSF_PDGM
from neurorad.cohorts.releases.upenn_gbm import UPENN_GBM
from neurorad.problems import InputError

RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        BRATS_GLI_PRE,
        BRATS_GLI_POST,
        BRATS_MEN,
        BRATS_MET,
        BRATS_PED,
        LUMIERE,
        MU_GLIOMA_POST,
        UCSF_PDGM,
        UPENN_GBM,
        CUIMC,
        BIDS,
    )
}


def release_of(block: Mapping[str, Any], cohort: str) -> Release:
    """The release of a cohort's block in the config.

    Raises:
        InputError: it is none of `RELEASES`; `generic` without pattern, sequences and state, or another with pattern
            or sequences; a state that no document tells is not given, or one that the release documents is.
    """
    name, state = block["release"], block.get("state")
    if name == "generic":
        missing = [key for key in ("pattern", "sequences", "state") if not block.get(key)]
        if missing:
            raise InputError(f"cohort {cohort}: release `generic` needs `{missing[0]}:`")
        return generic(block["pattern"], block["sequences"], block["state"])
    if name not in RELEASES:
        raise InputError(f"cohort {cohort}: unknown release {name!r}; known: {', '.join(RELEASES)}, generic")
    for key in ("pattern", "sequences"):
        if block.get(key):
            raise InputError(f"cohort {cohort}: `{key}:` is for release `generic`; {name} has its own names")
    release = RELEASES[name]
    if state and not release.state_in_config:
        raise InputError(
            f"cohort {cohort}: `state: {state}` cannot be set for release {name}, which documents "
            f"{' or '.join(release.state)}; take `state:` out, or declare the cohort as `generic`"
        )
    if not state and not release.state:
        raise InputError(f"cohort {cohort}: release `{name}` needs `state:` (stripped, defaced or skull)")
    return replace(release, state=(state,)) if state else release


def disease_of(block: Mapping[str, Any]) -> str:
    """The tumours of a cohort: as its block says, else as its release does; glioma (`GLI`) for any folder of scans."""
    return block.get("disease") or (RELEASES[block["release"]].disease if block["release"] in RELEASES else "GLI")
