"""Every file of the study with its checksum, and the software that made it."""


rule crate:
    input:
        config="results/provenance/config.yaml",
        results=[
            "results/report.html",
            "results/cohorts/leakage_audit.json",
            "results/evaluation/folds.parquet",
            *expand("results/figures/{name}.{kind}", name=SHOWN, kind=["svg", "png"]),
            *expand("results/tables/{name}.csv", name=WRITTEN),
            *expand("results/embeddings/{encoder}/{cohort}.parquet", encoder=EVALUATED, cohort=TEST),
            *expand("results/volumes/{cohort}/qc.html", cohort=COHORTS),
            *(path for paths in FILES.values() for path in paths),
            *(
                path
                for encoder in ENCODERS
                for path in multiext(f"{encoder_folder(encoder)}/", "card.json", "encoder.safetensors")
            ),
        ],
    output:
        "results/provenance/ro-crate-metadata.json",
    log:
        "results/logs/crate.log",
    benchmark:
        "results/benchmarks/crate.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        workflow=Path(workflow.basedir) / "Snakefile",
        code=code_of("provenance.commands:run_crate"),
    shell:
        "neurorad crate --config {input.config:q} --out {output:q} {params.workflow:q} {input.results:q}"
        " 2> >(tee {log:q} >&2)"
