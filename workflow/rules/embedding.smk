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
        flags=encoder_flags_of,
        code=code_of("embedding.commands:embed_cohort"),
    shell:
        "neurorad embed {params.flags} --volumes {input.volumes:q} --out {output:q} --threads {threads}"
        " 2> >(tee {log:q} >&2)"


rule embed_shifted:
    input:
        encoder_source,
        volumes="results/volumes/{cohort}/volumes.tsv",
    output:
        "results/embeddings/{encoder}/stress/{cohort}.parquet",
    log:
        "results/logs/embed_shifted/{encoder}/{cohort}.log",
    benchmark:
        "results/benchmarks/embed_shifted/{encoder}/{cohort}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    resources:
        gpu=1,
        mem_mb=3000,
    params:
        flags=encoder_flags_of,
        stress=lambda wildcards: stress_flags(EVALUATION["stress"]),
        seed=EVALUATION["seed"],
        code=code_of("embedding.commands:run_embed_shifted"),
    shell:
        "neurorad embed-shifted {params.flags} {params.stress} --seed {params.seed} --volumes {input.volumes:q}"
        " --out {output:q} --threads {threads} 2> >(tee {log:q} >&2)"


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


if NAMES.tuned:

    rule finetune:
        input:
            start_files,
            folds="results/evaluation/folds.parquet",
            volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=TEST),
            # Nothing is trained before the audit: a start that knows a test patient would be no start.
            leakage="results/cohorts/leakage_audit.json",
        output:
            "results/finetuned/{encoder}/{endpoint}.parquet",
        log:
            "results/logs/finetune/{encoder}/{endpoint}.log",
        benchmark:
            "results/benchmarks/finetune/{encoder}/{endpoint}.tsv"
        conda:
            "../../envs/neurorad.yaml"
        resources:
            gpu=1,
            mem_mb=16000,
            runtime=lambda wildcards, attempt: attempt * 720,
        params:
            flags=lambda wildcards, input: finetune_flags(
                wildcards.encoder, RIVALS["finetune"], str(Path(input[0]).parent)
            ),
            seed=EVALUATION["seed"],
            code=code_of("embedding.commands:run_finetune"),
        shell:
            "neurorad finetune {params.flags} --endpoint {wildcards.endpoint} --folds {input.folds:q}"
            " --volumes {input.volumes:q} --seed {params.seed} --out {output:q} --threads {threads}"
            " 2> >(tee {log:q} >&2)"


rule rivals:
    output:
        "results/embeddings/rivals.tsv",
    log:
        "results/logs/rivals.log",
    benchmark:
        "results/benchmarks/rivals.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        settings=canonical(RIVALS),
        code=code_of("embedding.commands:run_rivals"),
    shell:
        "neurorad rivals --settings {params.settings:q} --out {output:q} 2> >(tee {log:q} >&2)"


# An ensemble is joined from its members' embeddings; no volume is embedded again.
ruleorder: ensemble > embed
