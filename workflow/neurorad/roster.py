"""Who takes part in a study, by name, as its config says: cohorts, encoders, rivals. Each list in the config's order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neurorad.encoder_names import encoder_names, ensemble_names
from neurorad.rivals import combat_names, frozen_names, tuned_names

CLINICAL = "clinical"
"""Age and sex alone: the baseline that every other encoder is set beside."""


@dataclass(frozen=True)
class Roster:
    """Names of a study: what there is one result of."""

    cohorts: list[str]
    test: list[str]
    """The cohorts that encoders are evaluated on."""
    encoders: list[str]
    ensembles: list[str]
    baselines: list[str]
    """Rivals that are embedded like an encoder; `clinical` is the last, if any test cohort has a table of labels."""
    combats: list[str]
    tuned: list[str]
    explained: list[str]
    """The endpoints that maps are drawn of."""

    @property
    def clinical(self) -> list[str]:
        """`["clinical"]` if there are age and sex, else nothing."""
        return [name for name in self.baselines if name == CLINICAL]

    @property
    def evaluated(self) -> list[str]:
        """What is embedded, scored for survival and invariance."""
        return self.encoders + self.ensembles + self.baselines

    @property
    def probed(self) -> list[str]:
        """What has a probe: also ComBat's copies and the networks that are trained end to end."""
        return self.evaluated + self.combats + self.tuned

    @property
    def drawn(self) -> list[str]:
        """What has a panel or a line in a figure of encoders: one rival of each kind is enough there."""
        untrained = [name for name in self.baselines if name.startswith("random-")]
        return self.encoders + self.ensembles + untrained[:1] + self.clinical

    @property
    def explained_kinds(self) -> list[str]:
        """The evaluations whose coefficients maps are drawn from: `probe`, `survival`, both or none."""
        wanted = {"probe": {*self.explained} - {"os"}, "survival": {*self.explained} & {"os"}}
        return [kind for kind, endpoints in wanted.items() if endpoints]

    def twins(self, encoder: str) -> list[str]:
        """Encoders that differ in their seed alone: their maps should agree."""
        stem = encoder.rsplit("-s", 1)[0]
        return [other for other in self.encoders if other != encoder and other.rsplit("-s", 1)[0] == stem]


def roster(config: Mapping[str, Any]) -> Roster:
    """The names of a study whose config the schema accepts."""
    cohorts, pretraining, rivals = config["cohorts"], config["pretraining"], config.get("rivals", {})
    test = [name for name, block in cohorts.items() if "test" in block["role"]]
    encoders = encoder_names(pretraining)
    # Age and sex come from label tables.
    clinical = [CLINICAL] if any("labels" in cohorts[cohort] for cohort in test) else []
    return Roster(
        cohorts=list(cohorts),
        test=test,
        encoders=encoders,
        ensembles=ensemble_names(pretraining) if config["evaluation"].get("ensemble") else [],
        baselines=[name for name in frozen_names(rivals) if clinical or name != "clinical-full"] + clinical,
        combats=combat_names(rivals, encoders),
        tuned=tuned_names(rivals),
        explained=config.get("explanation", {}).get("endpoints", []),
    )
