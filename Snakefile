"""NeuroRAD: raw multi-site MRI -> volumes -> eight encoders -> embeddings -> what they know -> report."""

from snakemake.utils import min_version, validate

from neurorad.files import date_back, read_yaml, remove_partial
from neurorad.summary import summary

min_version("9.15")

# The shipped study, unless another is given: two studies are never merged.
if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


# As it is written, too: Snakemake takes the last of two keys of one name.
for path in workflow.configfiles:
    read_yaml(path)
validate(config, "workflow/schemas/config.schema.yaml", set_default=False)


include: "workflow/rules/common.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/phantom.smk"
include: "workflow/rules/cohorts.smk"
include: "workflow/rules/imaging.smk"
include: "workflow/rules/pretraining.smk"
include: "workflow/rules/embedding.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/explanation.smk"
include: "workflow/rules/reporting.smk"
include: "workflow/rules/provenance.smk"


rule all:
    default_target: True
    input:
        "results/report.html",
        "results/provenance/ro-crate-metadata.json",
        # The report holds copies: without being asked for, a figure or table that went missing would not be made again.
        expand("results/figures/{name}.{suffix}", name=SHOWN, suffix=["svg", "png"]),
        expand("results/tables/{name}.csv", name=WRITTEN),
        NATIVE,
        ["results/phantom/truth.json"] if "phantom" in config else [],


# Up to the encoders' numbers, for a study whose patients have no labels.
rule embeddings:
    input:
        expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=ENCODERS, cohort=TEST),
        expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
        FILES["excluded"],


onstart:
    remove_partial("results")
    if ahead := date_back("results"):
        print(f"{ahead} results were dated in the future, as a clock ran ahead: they have the present time now.")


onsuccess:
    print(summary(Path("results")))


onerror:
    print(
        "A job failed; the message above names its log below results/logs. Mend the cause and give the same command again."
    )
