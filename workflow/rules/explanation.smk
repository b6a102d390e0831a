"""Where an encoder looks: Grad-CAM of one endpoint's probe, and its agreement with the tumour."""


rule explain:
    input:
        encoder=lambda wildcards: multiext(f"{encoder_folder(wildcards.encoder)}/", "card.json", "encoder.safetensors"),
        predictions="results/evaluation/probe/{encoder}.predictions.parquet",
        coefficients="results/evaluation/probe/{encoder}.coefficients.parquet",
        volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=TEST),
        embeddings=expand("results/embeddings/{{encoder}}/{cohort}.parquet", cohort=TEST),
        leakage="results/cohorts/leakage_audit.json",
        twins=twin_files,
    output:
        multiext("results/explanation/{encoder}/{endpoint}/", *EXPLAINED),
    log:
        "results/logs/explain/{encoder}/{endpoint}.log",
    benchmark:
        "results/benchmarks/explain/{encoder}/{endpoint}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    resources:
        gpu=1,
    params:
        encoder=lambda wildcards: encoder_folder(wildcards.encoder),
        folder=folder_of,
        twins=twin_flags,
        effort=effort_flags,
        code=code_of("explanation.commands:run_explain", resources=["endpoints.yaml"]),
    shell:
        "neurorad explain --encoder {params.encoder:q} --endpoint {wildcards.endpoint}"
        " --coefficients {input.coefficients:q} --predictions {input.predictions:q} --volumes {input.volumes:q}"
        " --embeddings {input.embeddings:q} --leakage {input.leakage:q} {params.twins} {params.effort}"
        " --out {params.folder:q} --threads {threads}"
        " 2> >(tee {log:q} >&2)"
