"""What figures, tables, the report and the archive are made from. The rules themselves hold no code."""

from neurorad.analysis_plan import LOCK, deviations, read_lock, stamp
from neurorad.provenance.documents import CHECKLISTS
from neurorad.reporting.numbers import ROWS
from neurorad.reporting.registry import CAPTIONS, FIGURES, caption
from neurorad.reporting.tables import TABLES
from neurorad.result_files import result_files

LOCKED = read_lock(LOCK)
PLAN = stamp(LOCKED, config)
FILES = result_files(config, NAMES)

PROVENANCE_TABLES = ["claims", "deviations"]
"""Tables about the study rather than of it; like the others below results/tables and in the report."""

SHEETS = [
    *expand("results/provenance/model_cards/{encoder}.md", encoder=ENCODERS),
    *expand("results/provenance/data_sheets/{cohort}.md", cohort=COHORTS),
]
"""A card for each encoder and a sheet for each cohort."""

PAGES = [
    *expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
    *expand(
        "results/explanation/{encoder}/{endpoint}/viewer.html", encoder=ENCODERS, endpoint=EXPLANATION["endpoints"]
    ),
    *SHEETS,
]
"""Pages that the report links to."""

APPENDIX = expand("results/provenance/{name}.csv", name=CHECKLISTS)
"""Tables (CSV, TSV) and texts that stand at the end of the report, titled by their file's name."""

SHOWN = [name for name, entry in FIGURES.items() if all(FILES[need] for need in entry.needs)]
WRITTEN = [name for name, (_, needs) in TABLES.items() if all(FILES[need] for need in needs)]


def figure_code(name):
    entry = FIGURES[name]
    rows = ROWS.get(name)
    behind = ["reporting.numbers:patients_behind", *([reached_by(getattr(rows, "func", rows))] if rows else [])]
    selected = getattr(rows, "keywords", {})
    drawn = code_of(reached_by(entry.draw), *behind, "reporting.inputs:read_tables", "reporting.theme:write_figure")
    return lambda wildcards: canonical([drawn(wildcards), selected, entry.title, caption(name)])


def declared():
    """What the analysis plan declares, as one text."""
    plan = config.get("analysis_plan", {})
    return canonical({role: plan[role] for role in ("primary", "secondary") if role in plan})


def plan_flags(wildcards):
    return f"--plan {shlex.quote(PLAN)} --declared {shlex.quote(declared())}"


def numbers(wildcards):
    """The tables that planned numbers are looked for in."""
    tidy = ("probe", "survival", "invariance", "comparison", "reliability")
    return [f"results/tables/{name}.csv" for name in tidy if name in WRITTEN]


def changed_from_plan(wildcards):
    return canonical([vars(deviation) for deviation in deviations(LOCKED, config)])


def drawn_from(needs):
    return {need: FILES[need] for need in needs}


def source_flags(wildcards, input):
    """`--probe FILE ... --survival FILE ...` for the inputs that have such a name."""
    return " ".join(f"--{name} {quoted(input.get(name))}" for name in FILES if input.get(name))


# Provenance

CARDS = [
    path for encoder in ENCODERS for path in multiext(f"{encoder_folder(encoder)}/", "card.json", "encoder.safetensors")
]

DOCUMENTS = expand("results/provenance/{name}.{kind}", name=CHECKLISTS, kind=["md", "csv"]) + SHEETS

PUBLISHED = [
    "results/report.html",
    "results/cohorts/leakage_audit.json",
    "results/evaluation/folds.parquet",
    *DOCUMENTS,
    *expand("results/figures/{name}.{kind}", name=SHOWN, kind=["svg", "png", "pdf", "csv"]),
    *expand("results/tables/{name}.csv", name=WRITTEN + PROVENANCE_TABLES),
    *expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=NAMES.evaluated, cohort=TEST),
    *expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
    *(path for paths in FILES.values() for path in paths),
    *CARDS,
]
"""What a study is published as: everything but its volumes, logs and single predictions."""
