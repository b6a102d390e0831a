"""Names from the config, and the functions that choose a rule's files and flags. The rules themselves hold no code."""

import functools
import hashlib
import json
import shlex
from pathlib import Path

import yaml

from neurorad import RESOURCES
from neurorad.analysis_plan import LOCK, deviations, read_lock, stamp
from neurorad.cohorts.inventory import listing_digest
from neurorad.cohorts.labels import decided_in
from neurorad.cohorts.releases import RELEASES
from neurorad.encoder_names import METHODS, encoder_names, ensemble_names, members
from neurorad.fingerprint import fingerprint
from neurorad.imaging.commands import shard_of
from neurorad.provenance.documents import CHECKLISTS
from neurorad.provenance.manifest import JOBS
from neurorad.pretraining.arithmetic import job_memory_mb, job_minutes, preset_values
from neurorad.imaging.verdicts import read_verdicts
from neurorad.reporting.numbers import ROWS
from neurorad.reporting.registry import CAPTIONS, FIGURES, caption
from neurorad.reporting.tables import TABLES
from neurorad.rivals import combat_names, frozen_names, harmonised, pretrained_elsewhere, start_of, tuned_names

# Rules call `neurorad VERB`; it runs from this checkout, whichever environment the job is in.
ROOT = Path(str(workflow.current_basedir)).parents[1]
SOURCE = shlex.quote(str(ROOT / "workflow"))
shell.prefix(f'export PYTHONPATH={SOURCE} NEURORAD_JOBS={JOBS}; neurorad() {{{{ python -m neurorad "$@"; }}}}; ')

COHORTS = config["cohorts"]
TEST = [name for name, block in COHORTS.items() if "test" in block["role"]]
CROSSWALKS = config.get("leakage", {}).get("crosswalks", [])
PRETRAINING = config["pretraining"]
FROZEN = PRETRAINING.get("freeze")
ENCODERS = encoder_names(PRETRAINING)
EVALUATION = config["evaluation"]
ENSEMBLES = ensemble_names(PRETRAINING) if EVALUATION.get("ensemble") else []
RIVALS = config.get("rivals", {})
# Age and sex come from label tables.
CLINICAL = ["clinical"] if any("labels" in COHORTS[cohort] for cohort in TEST) else []
BASELINES = [name for name in frozen_names(RIVALS) if CLINICAL or name != "clinical-full"] + CLINICAL
COMBATS = combat_names(RIVALS, ENCODERS)
TUNED = tuned_names(RIVALS)
EXPLANATION = {"endpoints": [], "patients": 4, "layer": "layer3", **config.get("explanation", {})}
EXPLAINED_KINDS = [
    kind
    for kind, wanted in {
        "probe": set(EXPLANATION["endpoints"]) - {"os"},
        "survival": set(EXPLANATION["endpoints"]) & {"os"},
    }.items()
    if wanted
]
LOCKED = read_lock(LOCK)
PLAN = stamp(LOCKED, config)
EXPLAINED = ["maps.npz", "agreement.parquet", "check_scans.parquet", "checks.parquet", "viewer.html"]


wildcard_constraints:
    cohort="[a-z0-9][a-z0-9-]*",
    encoder="[a-z][a-z0-9]*(-[a-z]+)*(-s[0-9]+)?",
    shard="[0-9]+",
    endpoint="[a-z0-9]+",


def canonical(value):
    """One JSON text for a value, whatever the order of its keys: what Snakemake compares to see a change."""
    return json.dumps(value, sort_keys=True)


def code_of(*entries, resources=()):
    """Changes when the code that `entries` reach does, or the content of a file in `resources/`."""

    def code(wildcards):
        read = {name: hashlib.sha256((RESOURCES / name).read_bytes()).hexdigest() for name in resources}
        return canonical([fingerprint(*entries), read])

    return code


def reached_by(function):
    return f"{function.__module__.removeprefix('neurorad.')}:{function.__qualname__.split('.')[0]}"


def folder_of(wildcards, output):
    return str(Path(output[0]).parent)


# Phantom and cohorts


def phantom_flags(wildcards):
    return " ".join(f"--{key} {value}" for key, value in sorted(config["phantom"].items()))


def from_phantom(wildcards):
    """The phantom folder that a cohort reads from, if it does."""
    folder = f"results/phantom/{wildcards.cohort}"
    return [folder] if COHORTS[wildcards.cohort]["images"] == folder and "phantom" in config else []


def listing(wildcards):
    """Changes when files come, go or change size below a cohort's folder (the phantom's folder is an input itself)."""
    folder = Path(COHORTS[wildcards.cohort]["images"])
    return "phantom" if from_phantom(wildcards) else listing_digest(folder) if folder.is_dir() else "absent"


def inventory_flags(wildcards):
    block = COHORTS[wildcards.cohort]
    flags = {key: block[key] for key in ("release", "images", "pattern", "state") if key in block}
    if config["imaging"].get("missing_sequence") == "zero":
        flags["missing"] = "zero"
    if "sequences" in block:
        flags["sequences"] = canonical(block["sequences"])
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in flags.items())


def label_table(wildcards):
    return [] if from_phantom(wildcards) else COHORTS[wildcards.cohort].get("labels", [])


def decision_flag(wildcards):
    decided = decided_in(config)
    return f"--decisions {shlex.quote(canonical(decided))}" if decided else ""


def label_flags(wildcards):
    block = COHORTS[wildcards.cohort]
    table = f" --table {shlex.quote(block['labels'])}" if "labels" in block else ""
    return f"--release {block['release']} --cohort {wildcards.cohort}{table} {decision_flag(wildcards)}"


def label_code(wildcards):
    dictionary = f"labels/{COHORTS[wildcards.cohort]['release']}.yaml"
    known = [dictionary] if (RESOURCES / dictionary).is_file() else []
    return code_of("cohorts.commands:run_labels", resources=["endpoints.yaml", *known])(wildcards)


def disease_of(cohort):
    block = COHORTS[cohort]
    return block.get("disease") or (RELEASES[block["release"]].disease if block["release"] in RELEASES else "GLI")


AUDITED = {
    name: {"release": block["release"], "role": block["role"], "disease": disease_of(name)}
    for name, block in COHORTS.items()
}


def group_tables(wildcards):
    """Tables that may have the column that groups are made of; only the cohorts to pretrain on need it."""
    cohorts = [name for name, block in COHORTS.items() if "pretrain" in block["role"]]
    if not PRETRAINING.get("groups", "cohort").startswith("column:"):
        return []
    return expand("results/cohorts/{cohort}/{table}.tsv", cohort=cohorts, table=["scans", "patients"])


def group_flags(wildcards, input):
    flags = {"groups": "--groups", "min_patients": "--min-patients", "max_scans_per_patient": "--max-scans"}
    given = [f"{flag} {shlex.quote(str(PRETRAINING[key]))}" for key, flag in flags.items() if key in PRETRAINING]
    tables = [f"--tables {' '.join(map(shlex.quote, input.tables))}"] if input.tables else []
    return " ".join([*given, *tables])


# Imaging


def shards(cohort):
    return COHORTS[cohort].get("shards", 1)


def series_table(wildcards):
    return COHORTS[wildcards.cohort].get("series", [])


def series_flag(wildcards, input):
    return f"--series {shlex.quote(str(input.series))}" if input.series else ""


def inventory_of(wildcards):
    return ancient(checkpoints.inventory.get(cohort=wildcards.cohort).output.scans)


def shard_rows(wildcards):
    """sha256 of a shard's own rows of the inventory: a scan added elsewhere does not change it."""
    table = Path(f"results/cohorts/{wildcards.cohort}/scans.tsv")
    # Read again when a checkpoint has written it anew.
    return rows_of_shards(table, shards(wildcards.cohort), table.stat().st_mtime_ns)[int(wildcards.shard)]


@functools.cache
def rows_of_shards(table, count, changed):
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    column = header.split("\t").index("scan")
    digests = [hashlib.sha256() for _ in range(count)]
    for row in rows:
        digests[shard_of(row.split("\t")[column], count)].update(row.encode() + b"\n")
    return [digest.hexdigest() for digest in digests]


def verdicts(wildcards):
    return COHORTS[wildcards.cohort].get("verdicts", [])


def failed(wildcards):
    """The scans that a cohort's readers failed, with their comments."""
    path = verdicts(wildcards)
    if not path or not Path(path).is_file():
        return "{}"
    rows = read_verdicts(Path(path))
    return canonical(dict(rows.loc[rows["verdict"] == "fail", ["scan", "comment"]].values.tolist()))


def failing_verdicts(wildcards):
    """The verdicts, for the index: only if one of them fails, and then by what fails rather than by the file's age."""
    return ancient(verdicts(wildcards)) if failed(wildcards) != "{}" else []


def verdict_flag(wildcards, input):
    return f"--verdicts {shlex.quote(str(input.verdicts))}" if input.verdicts else ""


# Pretraining and embedding


def manifest(wildcards):
    return ancient(checkpoints.audit.get().output.manifest)


def manifest_digest(wildcards):
    return hashlib.sha256(Path("results/cohorts/pretraining_manifest.tsv").read_bytes()).hexdigest()


def base_run(wildcards):
    return f"results/encoders/{wildcards.method}-base-s{wildcards.seed}"


def reference_run(wildcards):
    """What `excess` compares groups with: the base run of the same method and seed."""
    return multiext(f"{base_run(wildcards)}/", "card.json", "groups.csv") if wildcards.objective == "excess" else []


def reference_flag(wildcards):
    return f"--reference {base_run(wildcards)}" if wildcards.objective == "excess" else ""


def checkpoint_flag(wildcards):
    return f"--checkpoint {PRETRAINING['checkpoint']}" if "checkpoint" in PRETRAINING else ""


def pretraining_memory(wildcards, attempt):
    return attempt * job_memory_mb(preset_values(PRETRAINING["preset"]), config["imaging"]["shape"])


def pretraining_minutes(wildcards, attempt):
    return attempt * job_minutes(preset_values(PRETRAINING["preset"]), wildcards.method)


def preset_settings(wildcards):
    """What the preset says to one method: another preset or method that changes trains nothing again."""
    others = {*METHODS} - {wildcards.method}
    return canonical({key: value for key, value in preset_values(PRETRAINING["preset"]).items() if key not in others})


def encoder_folder(encoder):
    return f"{FROZEN or 'results/encoders'}/{encoder}"


def encoder_source(wildcards):
    """What to embed with: a trained encoder, the same network untrained, the clinical variables, or a rival's files."""
    name = wildcards.encoder
    if name.split("-")[0] == "clinical":
        return [f"results/cohorts/{wildcards.cohort}/patients.tsv"]
    if name in BASELINES and not name.startswith("random-"):
        block = rival_settings(name)
        return [block[key] for key in ("weights", "torchscript", "onnx", "python") if key in block]
    # Waiting for the audit here lets Snakemake see, once it is done, that an unchanged encoder embeds nothing again.
    checkpoints.audit.get()
    if name.startswith("random-"):
        return [f"{encoder_folder(ENCODERS[0])}/card.json"]
    return multiext(f"{encoder_folder(name)}/", "card.json", "encoder.safetensors")


def rival_settings(name):
    block = RIVALS.get(name, RIVALS.get("adapters", {}).get(name))
    return block if isinstance(block, dict) else {}


def encoder_flags(wildcards):
    name = wildcards.encoder
    if name.split("-")[0] == "clinical":
        full = " --full" if name == "clinical-full" else ""
        return f"--clinical results/cohorts/{wildcards.cohort}/patients.tsv{full}"
    if name.startswith("random-s"):
        seed = name.removeprefix("random-s")
        return f"--random {seed} --like {shlex.quote(encoder_folder(ENCODERS[0]))}"
    if name in BASELINES:
        return f"--rival {name} --settings {shlex.quote(canonical(rival_settings(name)))}"
    return f"--encoder {shlex.quote(encoder_folder(name))}"


def start_files(wildcards):
    """What a network that is trained end to end begins as: an encoder, or the architecture of one."""
    start = start_of(wildcards.encoder)
    folder = encoder_folder(ENCODERS[0] if start == "scratch" else start)
    return multiext(f"{folder}/", "card.json", *([] if start == "scratch" else ["encoder.safetensors"]))


def finetune_flags(wildcards, input):
    block = RIVALS["finetune"]
    start = start_of(wildcards.encoder)
    flag = "--scratch" if start == "scratch" else "--encoder"
    recipe = {key: block[key] for key in ("epochs", "patience", "batch_size", "learning_rate") if key in block}
    protocols = " ".join(block.get("protocols", ["within_site"]))
    return (
        f"{flag} {shlex.quote(str(Path(input[0]).parent))} --recipe {shlex.quote(canonical(recipe))}"
        f" --protocols {protocols} --repeats {block.get('repeats', 1)}"
    )


def outside_flag(wildcards):
    """For the stamp of results of weights from elsewhere: nothing proves that they never saw a test patient."""
    return "--pretrained-elsewhere" if pretrained_elsewhere(wildcards.encoder, RIVALS) else ""


def ensemble_members(wildcards):
    return [
        f"results/embeddings/{encoder}/{wildcards.cohort}.parquet"
        for encoder in members(wildcards.encoder, PRETRAINING["methods"])
    ]


# Evaluation


def clinical_embeddings(wildcards):
    """Age and sex, which every other encoder's probe is set beside."""
    if wildcards.encoder in ("clinical", "clinical-full", *TUNED) or not CLINICAL:
        return []
    return expand("results/embeddings/clinical/{cohort}.parquet", cohort=TEST)


def probed_from(wildcards):
    """The embeddings of every test cohort; ComBat's are those of the encoder that it harmonises. Of a network trained end
    to end, its out-of-fold logits."""
    if wildcards.encoder in TUNED:
        endpoint = RIVALS["finetune"]["endpoints"]
        return expand("results/finetuned/{encoder}/{endpoint}.parquet", encoder=wildcards.encoder, endpoint=endpoint)
    return expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=harmonised(wildcards.encoder), cohort=TEST)


def probe_flags(wildcards, input):
    source = (
        f"{'--scores' if wildcards.encoder in TUNED else '--embeddings'} {' '.join(map(shlex.quote, input.source))}"
    )
    combat = ["--combat"] if wildcards.encoder in COMBATS else []
    clinical = [f"--clinical {' '.join(map(shlex.quote, input.clinical))}"] if input.clinical else []
    robust = ["--robust"] if "robust" in EVALUATION.get("probes", []) else []
    return " ".join([source, *clinical, *robust, *combat, outside_flag(wildcards)])


def survival_flags(wildcards):
    changes = EVALUATION.get("time_varying", [])
    return f"--time-varying {' '.join(changes)}" if changes else ""


def stress_flags(wildcards):
    """Of every encoder that looks at volumes, where the config asks for stress tests."""
    block = EVALUATION["stress"]
    severities = [f"--severities {' '.join(map(str, block['severities']))}"] if "severities" in block else []
    return " ".join([f"--shifts {' '.join(block['shifts'])}", *severities])


# Explanation


def twins(encoder):
    """Encoders that differ in their seed alone: their maps should agree."""
    stem = encoder.rsplit("-s", 1)[0]
    return [other for other in ENCODERS if other != encoder and other.rsplit("-s", 1)[0] == stem]


def twin_files(wildcards):
    return [
        path
        for other in twins(wildcards.encoder)
        for path in (
            *multiext(f"{encoder_folder(other)}/", "card.json", "encoder.safetensors"),
            *expand("results/evaluation/{kind}/{other}.coefficients.parquet", kind=EXPLAINED_KINDS, other=other),
        )
    ]


def twin_flags(wildcards):
    return " ".join(
        f"--twin {shlex.quote(encoder_folder(other))} "
        + " ".join(f"results/evaluation/{kind}/{other}.coefficients.parquet" for kind in EXPLAINED_KINDS)
        for other in twins(wildcards.encoder)
    )


def effort_flags(wildcards):
    return " ".join(
        f"--{key} {value}" for key, value in sorted(EXPLANATION.items()) if key not in ("endpoints", "native")
    )


NATIVE = (
    [
        f"results/explanation/{encoder}/{endpoint}/native"
        for encoder in ENCODERS
        for endpoint in EXPLANATION["endpoints"]
    ]
    if "native" in EXPLANATION
    else []
)


# Reporting

EVALUATED = ENCODERS + ENSEMBLES + BASELINES
PROBED = EVALUATED + COMBATS + TUNED
# Where a figure has a panel or a line an encoder, one rival of each kind is enough.
DRAWN = ENCODERS + ENSEMBLES + [name for name in BASELINES if name.startswith("random-")][:1] + CLINICAL

FILES = {
    "scans": expand("results/cohorts/{cohort}/scans.tsv", cohort=COHORTS),
    "patients": expand("results/cohorts/{cohort}/patients.tsv", cohort=COHORTS),
    "decisions": expand("results/cohorts/{cohort}/decisions.tsv", cohort=COHORTS),
    "volumes": expand("results/volumes/{cohort}/volumes.tsv", cohort=COHORTS),
    "excluded": expand("results/cohorts/{cohort}/excluded.tsv", cohort=COHORTS),
    "manifest": ["results/cohorts/pretraining_manifest.tsv"],
    "history": [f"{encoder_folder(encoder)}/history.csv" for encoder in ENCODERS],
    "groups": [f"{encoder_folder(encoder)}/groups.csv" for encoder in ENCODERS],
    "probe": expand("results/evaluation/probe/{encoder}.parquet", encoder=PROBED),
    "rivals": ["results/embeddings/rivals.tsv"],
    "survival": expand("results/evaluation/survival/{encoder}.parquet", encoder=EVALUATED),
    "curves": expand("results/evaluation/survival/{encoder}.curves.parquet", encoder=DRAWN),
    "invariance": expand("results/evaluation/invariance/{encoder}.parquet", encoder=EVALUATED),
    "coordinates": expand("results/evaluation/invariance/{encoder}.coordinates.parquet", encoder=ENCODERS),
    "comparison": ["results/evaluation/comparison.parquet"] if len(PRETRAINING["objectives"]) > 1 else [],
    "clean": ["results/evaluation/clean.parquet"],
    "stress": (
        expand("results/evaluation/stress/{encoder}.parquet", encoder=[*ENCODERS, "random-s0"])
        if "stress" in EVALUATION
        else []
    ),
    "reliability": ["results/evaluation/reliability.parquet"],
    "maps": expand(
        "results/explanation/{encoder}/{endpoint}/maps.npz", encoder=ENCODERS, endpoint=EXPLANATION["endpoints"]
    ),
    "agreement": expand(
        "results/explanation/{encoder}/{endpoint}/agreement.parquet",
        encoder=ENCODERS,
        endpoint=EXPLANATION["endpoints"],
    ),
    "checks": expand(
        "results/explanation/{encoder}/{endpoint}/checks.parquet",
        encoder=ENCODERS,
        endpoint=EXPLANATION["endpoints"],
    ),
}
"""Every file that a flag of `neurorad figure` and `neurorad table` takes."""

PROVENANCE_TABLES = ["claims", "deviations"]
"""Tables about the study rather than of it; like the others below results/tables and in the report."""

PAGES = [
    *expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
    *expand(
        "results/explanation/{encoder}/{endpoint}/viewer.html", encoder=ENCODERS, endpoint=EXPLANATION["endpoints"]
    ),
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
    return " ".join(f"--{name} {' '.join(map(shlex.quote, input.get(name)))}" for name in FILES if input.get(name))


# Provenance

CARDS = [
    path for encoder in ENCODERS for path in multiext(f"{encoder_folder(encoder)}/", "card.json", "encoder.safetensors")
]

DOCUMENTS = [
    *expand("results/provenance/{name}.{kind}", name=CHECKLISTS, kind=["md", "csv"]),
    *expand("results/provenance/model_cards/{encoder}.md", encoder=ENCODERS),
    *expand("results/provenance/data_sheets/{cohort}.md", cohort=COHORTS),
]

PUBLISHED = [
    "results/report.html",
    "results/cohorts/leakage_audit.json",
    "results/evaluation/folds.parquet",
    *DOCUMENTS,
    *expand("results/figures/{name}.{kind}", name=SHOWN, kind=["svg", "png", "pdf", "csv"]),
    *expand("results/tables/{name}.csv", name=WRITTEN + PROVENANCE_TABLES),
    *expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=EVALUATED, cohort=TEST),
    *expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
    *(path for paths in FILES.values() for path in paths),
    *CARDS,
]
"""What a study is published as: everything but its volumes, logs and single predictions."""
