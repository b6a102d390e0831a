"""About the study: departures from its plan, the paper's claims, and every file with its checksum and what made it."""


rule deviations:
    input:
        numbers,
    output:
        "results/tables/deviations.csv",
    log:
        "results/logs/deviations.log",
    benchmark:
        "results/benchmarks/deviations.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        changed=changed_from_plan,
        plan=plan_flags,
        code=code_of("provenance.commands:run_deviations"),
    shell:
        "neurorad deviations --changed {params.changed:q} {params.plan} --tables {input:q} --out {output:q}"
        " 2> >(tee {log:q} >&2)"


rule claims:
    input:
        expand("results/tables/{name}.csv", name=WRITTEN),
    output:
        "results/tables/claims.csv",
    log:
        "results/logs/claims.log",
    benchmark:
        "results/benchmarks/claims.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        plan=PLAN,
        code=code_of("provenance.commands:run_claims", resources=["claims.yaml"]),
    shell:
        "neurorad claims --tables {input:q} --plan {params.plan:q} --out {output:q} 2> >(tee {log:q} >&2)"


rule crate:
    input:
        config="results/provenance/config.yaml",
        results=[
            "results/report.html",
            "results/cohorts/leakage_audit.json",
            "results/evaluation/folds.parquet",
            *expand("results/figures/{name}.{kind}", name=SHOWN, kind=["svg", "png", "pdf", "csv"]),
            *expand("results/tables/{name}.csv", name=WRITTEN + PROVENANCE_TABLES),
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
        workflow=ROOT / "Snakefile",
        code=code_of("provenance.commands:run_crate"),
    shell:
        "neurorad crate --config {input.config:q} --out {output:q} {params.workflow:q} {input.results:q}"
        " 2> >(tee {log:q} >&2)"
