"""The order of the report: the paper's story first, then what the paper lacks."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING = "fig2_training"
"""Its chapter shows the training page of every encoder as well."""


@dataclass(frozen=True)
class Chapter:
    """One section of the page: figures and tables by name, shown where they were made."""

    title: str
    sentence: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


STORY = (
    Chapter(
        "Who was scanned",
        "Every number below rests on these scans and labels.",
        ("fig1_flow", "fig2d_cohorts"),
        ("supplementary_1_cohorts", "supplementary_2_labels", "supplementary_3_decisions"),
    ),
    Chapter(
        "How the encoders were trained",
        "Each method with and without Group-DRO.",
        (TRAINING,),
        ("supplementary_4_presets",),
    ),
    Chapter(
        "Molecular markers",
        "Linear probes on frozen embeddings.",
        ("fig3a_rivals", "fig3b_common_markers", "fig3c_uncommon_markers", "fig3d_differences"),
        ("probe", "comparison"),
    ),
    Chapter(
        "Overall survival",
        "Risk from frozen embeddings.",
        ("fig4a_survival", "fig4b_kaplan_meier"),
        ("survival",),
    ),
    Chapter(
        "Do embeddings know the site",
        "Less is better only if the markers are still found.",
        ("fig4c_sites",),
        ("invariance",),
    ),
    Chapter(
        "Markers and survival", "Carriers as tested in the laboratory, not as predicted.", ("fig5_marker_survival",)
    ),
    Chapter(
        "Where the encoder looked",
        "A map shows where features raise the score, not why. Each is of models that had not seen the patient.",
        ("fig6a_heat_maps", "fig6b_contours"),
    ),
)
"""In the paper's order."""

BEYOND = (
    Chapter(
        "May a probe be acted on, and for whom",
        "Calibration, utility, uncertainty and subgroups of the same predictions.",
        ("supp1_calibration", "supp2_subgroups"),
        ("reliability",),
    ),
    Chapter(
        "When the images change",
        "Noise, bias field, blur, gamma, missing sequences: volumes embedded again, and the probes of the clean folds on them.",
        ("supp3_stress",),
        ("stress",),
    ),
    Chapter(
        "Prognosis over time", "How well, how calibrated and of what use a predicted risk is.", ("fig4a_prognosis",)
    ),
    Chapter(
        "What encoders know of the site, beside what chance would show",
        "The silhouette alone says little: these numbers have a null.",
        ("fig4c_invariance",),
    ),
    Chapter(
        "All test patients, and those provably never pretrained on",
        "The same out-of-fold scores, counted on everybody and on the patients whom the leakage audit calls clean.",
        (),
        ("clean",),
    ),
    Chapter(
        "What the maps are worth",
        "A map that survives the randomisation of its model explains nothing.",
        ("fig6_map_checks",),
        ("map_agreement", "map_checks"),
    ),
)
"""What the paper lacks."""

ABOUT = (
    Chapter(
        "The paper's numbers beside this study's",
        "Each number of the paper that is known here, the rule that makes it again, what this study found, and where the "
        "paper contradicts itself.",
        (),
        ("claims",),
    ),
    Chapter(
        "Departures from the analysis plan",
        "What differs from the plan as it was locked, and planned numbers that this study does not have.",
        (),
        ("deviations",),
    ),
)
"""Of the study itself."""

CHAPTERS = (*STORY, *BEYOND, *ABOUT)
