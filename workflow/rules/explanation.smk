"""Where an encoder looks: Grad-CAM of its probes and of its risk, and their agreement with the tumour."""

# One job an encoder: a scan is read and passes the encoder once for all endpoints. Without endpoints there is no rule.
if EXPLANATION["endpoints"]:

    rule explain:
        input:
            encoder=lambda wildcards: multiext(
                f"{encoder_folder(wildcards.encoder)}/", "card.json", "encoder.safetensors"
            ),
            predictions=expand("results/evaluation/{kind}/{{encoder}}.predictions.parquet", kind=NAMES.explained_kinds),
            coefficients=expand(
                "results/evaluation/{kind}/{{encoder}}.coefficients.parquet", kind=NAMES.explained_kinds
            ),
            folds="results/evaluation/folds.parquet",
            volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=TEST),
            embeddings=expand("results/embeddings/{{encoder}}/{cohort}.parquet", cohort=TEST),
            leakage="results/cohorts/leakage_audit.json",
            twins=twin_files,
        output:
            expand(
                "results/explanation/{{encoder}}/{endpoint}/{file}",
                endpoint=EXPLANATION["endpoints"],
                file=EXPLAINED,
            ),
        log:
            "results/logs/explain/{encoder}.log",
        benchmark:
            "results/benchmarks/explain/{encoder}.tsv"
        conda:
            "../../envs/neurorad.yaml"
        resources:
            gpu=1,
        params:
            encoder=lambda wildcards: encoder_folder(wildcards.encoder),
            endpoints=" ".join(EXPLANATION["endpoints"]),
            twins=twin_flags,
            effort=effort_flags,
            code=code_of("explanation.commands:run_explain", resources=["endpoints.yaml"]),
        shell:
            "neurorad explain --encoder {params.encoder:q} --endpoint {params.endpoints}"
            " --coefficients {input.coefficients:q} --predictions {input.predictions:q} --folds {input.folds:q}"
            " --volumes {input.volumes:q} --embeddings {input.embeddings:q} --leakage {input.leakage:q}"
            " {params.twins} {params.effort} --out results/explanation/{wildcards.encoder} --threads {threads}"
            " 2> >(tee {log:q} >&2)"


rule native:
    input:
        maps="results/explanation/{encoder}/{endpoint}/maps.npz",
        volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=TEST),
    output:
        directory("results/explanation/{encoder}/{endpoint}/native"),
    log:
        "results/logs/native/{encoder}/{endpoint}.log",
    benchmark:
        "results/benchmarks/native/{encoder}/{endpoint}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        sequence=EXPLANATION.get("native", "t1c"),
        code=code_of("explanation.commands:run_native"),
    shell:
        "neurorad native --maps {input.maps:q} --volumes {input.volumes:q} --sequence {params.sequence}"
        " --out {output:q} 2> >(tee {log:q} >&2)"
