"""Encoders and baselines to embeddings: one table for each encoder and test cohort."""


rule embed:
    input:
        encoder_source,
        volumes="results/volumes/{cohort}/volumes.tsv",
    output:
        "results/embeddings/{encoder}/{cohort}.parquet",
    log:
        "results/logs/embed/{encoder}/{cohort}.log",
    benchmark:
        "results/benchmarks/embed/{encoder}/{cohort}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    resources:
        gpu=1,
        mem_mb=3000,
    params:
        flags=encoder_flags,
        code=code_of("embedding.commands:run_embed"),
    shell:
        "neurorad embed {params.flags} --volumes {input.volumes:q} --out {output:q} --threads {threads}"
        " 2> >(tee {log:q} >&2)"


rule ensemble:
    input:
        ensemble_members,
    output:
        "results/embeddings/{encoder}/{cohort}.parquet",
    log:
        "results/logs/ensemble/{encoder}/{cohort}.log",
    benchmark:
        "results/benchmarks/ensemble/{encoder}/{cohort}.tsv"
    wildcard_constraints:
        encoder="ensemble-[a-z]+-s[0-9]+",
    conda:
        "../../envs/neurorad.yaml"
    params:
        code=code_of("embedding.commands:run_ensemble"),
    shell:
        "neurorad ensemble --embeddings {input:q} --out {output:q} 2> >(tee {log:q} >&2)"


# An ensemble is joined from its members' embeddings; no volume is embedded again.
ruleorder: ensemble > embed
