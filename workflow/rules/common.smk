"""Names from the config, and the functions that choose a rule's files and flags. The rules themselves hold no code."""

import functools
import hashlib
import shlex
from pathlib import Path

import yaml

from neurorad import RESOURCES
from neurorad.cohorts.inventory import listing_digest
from neurorad.cohorts.labels import decided_in
from neurorad.cohorts.releases import disease_of
from neurorad.encoder_names import METHODS, members
from neurorad.fingerprint import fingerprint
from neurorad.imaging.commands import shard_of
from neurorad.imaging.verdicts import read_verdicts
from neurorad.job_flags import (
    canonical,
    decision_flag,
    encoder_flags,
    finetune_flags,
    group_flags,
    inventory_flags,
    label_flags,
    quoted,
    stress_flags,
)
from neurorad.pretraining.arithmetic import divisible, job_memory_mb, job_minutes, preset_values
from neurorad.provenance.manifest import JOBS
from neurorad.result_files import encoders_folder
from neurorad.rivals import harmonised, pretrained_elsewhere, rival_settings, start_of
from neurorad.roster import roster

# Rules call `neurorad VERB`; it runs from this checkout, whichever environment the job is in.
ROOT = Path(str(workflow.current_basedir)).parents[1]
SOURCE = shlex.quote(str(ROOT / "workflow"))
shell.prefix(f'export PYTHONPATH={SOURCE} NEURORAD_JOBS={JOBS}; neurorad() {{{{ python -m neurorad "$@"; }}}}; ')

COHORTS = config["cohorts"]
CROSSWALKS = config.get("leakage", {}).get("crosswalks", [])
PRETRAINING = config["pretraining"]
FROZEN = PRETRAINING.get("freeze")
EVALUATION = config["evaluation"]
RIVALS = config.get("rivals", {})
EXPLANATION = {"endpoints": [], "patients": 4, "layer": "layer3", **config.get("explanation", {})}
NAMES = roster(config)
TEST = NAMES.test
ENCODERS = NAMES.encoders
EXPLAINED = ["maps.npz", "agreement.parquet", "check_scans.parquet", "checks.parquet", "viewer.html"]


wildcard_constraints:
    cohort="[a-z0-9][a-z0-9-]*",
    encoder="[a-z][a-z0-9]*(-[a-z]+)*(-s[0-9]+)?",
    shard="[0-9]+",
    endpoint="[a-z0-9]+",


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


def label_table(wildcards):
    return [] if from_phantom(wildcards) else COHORTS[wildcards.cohort].get("labels", [])


def label_flags_of(wildcards):
    return label_flags(wildcards.cohort, COHORTS[wildcards.cohort], decided_in(config))


def label_code(wildcards):
    dictionary = f"labels/{COHORTS[wildcards.cohort]['release']}.yaml"
    known = [dictionary] if (RESOURCES / dictionary).is_file() else []
    return code_of("cohorts.commands:run_labels", resources=["endpoints.yaml", *known])(wildcards)


AUDITED = {
    name: {"release": block["release"], "role": block["role"], "disease": disease_of(block)}
    for name, block in COHORTS.items()
}


def group_tables(wildcards):
    """Tables that may have the column that groups are made of; only the cohorts to pretrain on need it."""
    cohorts = [name for name, block in COHORTS.items() if "pretrain" in block["role"]]
    if not PRETRAINING.get("groups", "cohort").startswith("column:"):
        return []
    return expand("results/cohorts/{cohort}/{table}.tsv", cohort=cohorts, table=["scans", "patients"])


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


@functools.cache
def preset():
    return preset_values(PRETRAINING["preset"])


def pretraining_memory(wildcards, attempt):
    return attempt * job_memory_mb(preset(), config["imaging"]["shape"])


def pretraining_minutes(wildcards, attempt):
    return attempt * job_minutes(preset(), wildcards.method)


def micro_batches(wildcards):
    """A resource, not a parameter: the encoder is the same, so those made with another number stay."""
    whole = not divisible(preset(), wildcards.method)
    return 1 if whole else PRETRAINING.get("accumulate", 1)


def preset_settings(wildcards):
    """What the preset says to one method: another preset or method that changes trains nothing again."""
    others = {*METHODS} - {wildcards.method}
    return canonical({key: value for key, value in preset().items() if key not in others})


def encoder_folder(encoder):
    return f"{encoders_folder(PRETRAINING)}/{encoder}"


def encoder_source(wildcards):
    """What to embed with: a trained encoder, the same network untrained, the clinical variables, or a rival's files."""
    name = wildcards.encoder
    if name.split("-")[0] == "clinical":
        return [f"results/cohorts/{wildcards.cohort}/patients.tsv"]
    if name in NAMES.baselines and not name.startswith("random-"):
        block = rival_settings(RIVALS, name)
        return [block[key] for key in ("weights", "torchscript", "onnx", "python") if key in block]
    # Waiting for the audit here lets Snakemake see, once it is done, that an unchanged encoder embeds nothing again.
    checkpoints.audit.get()
    if name.startswith("random-"):
        return [f"{encoder_folder(ENCODERS[0])}/card.json"]
    return multiext(f"{encoder_folder(name)}/", "card.json", "encoder.safetensors")


def encoder_flags_of(wildcards):
    name, patients = wildcards.encoder, f"results/cohorts/{wildcards.cohort}/patients.tsv"
    return encoder_flags(name, RIVALS, encoder_folder(name), encoder_folder(ENCODERS[0]), patients)


def start_files(wildcards):
    """What a network that is trained end to end begins as: an encoder, or the architecture of one."""
    start = start_of(wildcards.encoder)
    folder = encoder_folder(ENCODERS[0] if start == "scratch" else start)
    return multiext(f"{folder}/", "card.json", *([] if start == "scratch" else ["encoder.safetensors"]))


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
    beside = [] if wildcards.encoder in ("clinical", "clinical-full", *NAMES.tuned) else NAMES.clinical
    return expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=beside, cohort=TEST)


def probed_from(wildcards):
    """The embeddings of every test cohort; ComBat's are those of the encoder that it harmonises. Of a network trained end
    to end, its out-of-fold logits."""
    if wildcards.encoder in NAMES.tuned:
        endpoint = RIVALS["finetune"]["endpoints"]
        return expand("results/finetuned/{encoder}/{endpoint}.parquet", encoder=wildcards.encoder, endpoint=endpoint)
    return expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=harmonised(wildcards.encoder), cohort=TEST)


def probe_flags(wildcards, input):
    tuned = wildcards.encoder in NAMES.tuned
    source = f"{'--scores' if tuned else '--embeddings'} {quoted(input.source)}"
    combat = ["--combat"] if wildcards.encoder in NAMES.combats else []
    clinical = [f"--clinical {quoted(input.clinical)}"] if input.clinical else []
    robust = ["--robust"] if "robust" in EVALUATION.get("probes", []) else []
    return " ".join([source, *clinical, *robust, *combat, outside_flag(wildcards)])


def survival_flags(wildcards):
    changes = EVALUATION.get("time_varying", [])
    return f"--time-varying {' '.join(changes)}" if changes else ""


# Explanation


def twin_files(wildcards):
    return [
        path
        for other in NAMES.twins(wildcards.encoder)
        for path in (
            *multiext(f"{encoder_folder(other)}/", "card.json", "encoder.safetensors"),
            *expand("results/evaluation/{kind}/{other}.coefficients.parquet", kind=NAMES.explained_kinds, other=other),
        )
    ]


def twin_flags(wildcards):
    return " ".join(
        f"--twin {shlex.quote(encoder_folder(other))} "
        + " ".join(f"results/evaluation/{kind}/{other}.coefficients.parquet" for kind in NAMES.explained_kinds)
        for other in NAMES.twins(wildcards.encoder)
    )


def effort_flags(wildcards):
    return " ".join(
        f"--{key} {value}" for key, value in sorted(EXPLANATION.items()) if key not in ("endpoints", "native")
    )


NATIVE = (
    expand("results/explanation/{encoder}/{endpoint}/native", encoder=ENCODERS, endpoint=NAMES.explained)
    if "native" in EXPLANATION
    else []
)
