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


rule documents:
    input:
        audit="results/cohorts/leakage_audit.json",
        config="results/provenance/config.yaml",
        tables=expand("results/tables/{name}.csv", name=WRITTEN + PROVENANCE_TABLES),
        cohorts=FILES["scans"] + FILES["patients"] + FILES["excluded"],
        cards=CARDS,
    output:
        DOCUMENTS,
    log:
        "results/logs/documents.log",
    benchmark:
        "results/benchmarks/documents.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        plan=PLAN,
        cohorts=expand("results/cohorts/{cohort}", cohort=COHORTS),
        encoders=[encoder_folder(encoder) for encoder in ENCODERS],
        code=code_of(
            "provenance.commands:run_documents",
            resources=["data_sources.yaml", *(f"checklists/{name}.yaml" for name in CHECKLISTS)],
        ),
    shell:
        "neurorad documents --config {input.config:q} --audit {input.audit:q} --tables {input.tables:q}"
        " --cohorts {params.cohorts:q} --encoders {params.encoders:q} --plan {params.plan:q}"
        " --out results/provenance 2> >(tee {log:q} >&2)"


rule manifest:
    input:
        PUBLISHED,
    output:
        "results/provenance/manifest.json",
    log:
        "results/logs/manifest.log",
    benchmark:
        "results/benchmarks/manifest.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        code=code_of("provenance.commands:run_manifest"),
    shell:
        "neurorad manifest {input:q} --out {output:q} 2> >(tee {log:q} >&2)"


rule crate:
    input:
        config="results/provenance/config.yaml",
        manifest="results/provenance/manifest.json",
        results=PUBLISHED,
    output:
        crate="results/provenance/ro-crate-metadata.json",
        companions=multiext("results/provenance/", "Snakefile", "workflow.zip", "dag.dot", "environment.tsv"),
    log:
        "results/logs/crate.log",
    benchmark:
        "results/benchmarks/crate.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        code=code_of("provenance.commands:run_crate", resources=["data_sources.yaml"]),
    shell:
        "neurorad crate --config {input.config:q} --manifest {input.manifest:q} --out {output.crate:q} {input.results:q}"
        " 2> >(tee {log:q} >&2)"
