"""What frozen embeddings know: folds drawn once, then probes, survival and invariance of each encoder, then comparison."""


rule folds:
    input:
        patients=expand("results/cohorts/{cohort}/patients.tsv", cohort=TEST),
        volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=TEST),
    output:
        folds="results/evaluation/folds.parquet",
        counts="results/evaluation/patients.tsv",
    log:
        "results/logs/folds.log",
    benchmark:
        "results/benchmarks/folds.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        folds=EVALUATION["folds"],
        repeats=EVALUATION["repeats"],
        seed=EVALUATION["seed"],
        decisions=decision_flag(decided_in(config)),
        code=code_of("evaluation.commands:run_folds", resources=["endpoints.yaml"]),
    shell:
        "neurorad folds --patients {input.patients:q} --volumes {input.volumes:q} --folds {params.folds}"
        " --repeats {params.repeats} --seed {params.seed} {params.decisions} --counts {output.counts:q}"
        " --out {output.folds:q} 2> >(tee {log:q} >&2)"


rule probe:
    input:
        source=probed_from,
        clinical=clinical_embeddings,
        folds="results/evaluation/folds.parquet",
        leakage="results/cohorts/leakage_audit.json",
    output:
        rows="results/evaluation/probe/{encoder}.parquet",
        predictions="results/evaluation/probe/{encoder}.predictions.parquet",
        coefficients="results/evaluation/probe/{encoder}.coefficients.parquet",
    log:
        "results/logs/probe/{encoder}.log",
    benchmark:
        "results/benchmarks/probe/{encoder}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        flags=probe_flags,
        code=code_of("evaluation.commands:run_probe", resources=["endpoints.yaml"]),
    shell:
        "neurorad probe --encoder {wildcards.encoder} --folds {input.folds:q}"
        " --leakage {input.leakage:q} --seed {params.seed} --bootstrap {params.bootstrap} {params.flags}"
        " --out {output.rows:q}"
        " --predictions {output.predictions:q} --coefficients {output.coefficients:q} 2> >(tee {log:q} >&2)"


rule survival:
    input:
        embeddings=expand("results/embeddings/{{encoder}}/{cohort}.parquet", cohort=TEST),
        patients=expand("results/cohorts/{cohort}/patients.tsv", cohort=TEST),
        folds="results/evaluation/folds.parquet",
        leakage="results/cohorts/leakage_audit.json",
    output:
        rows="results/evaluation/survival/{encoder}.parquet",
        predictions="results/evaluation/survival/{encoder}.predictions.parquet",
        coefficients="results/evaluation/survival/{encoder}.coefficients.parquet",
        curves="results/evaluation/survival/{encoder}.curves.parquet",
    log:
        "results/logs/survival/{encoder}.log",
    benchmark:
        "results/benchmarks/survival/{encoder}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        outside=outside_flag,
        flags=survival_flags,
        code=code_of("evaluation.commands:run_survival", resources=["endpoints.yaml"]),
    shell:
        "neurorad survival --encoder {wildcards.encoder} --embeddings {input.embeddings:q}"
        " --patients {input.patients:q} --folds {input.folds:q} --leakage {input.leakage:q} --seed {params.seed}"
        " --bootstrap {params.bootstrap} {params.outside} {params.flags} --out {output.rows:q} --predictions {output.predictions:q}"
        " --coefficients {output.coefficients:q} --curves {output.curves:q} 2> >(tee {log:q} >&2)"


rule invariance:
    input:
        embeddings=expand("results/embeddings/{{encoder}}/{cohort}.parquet", cohort=TEST),
        patients=expand("results/cohorts/{cohort}/patients.tsv", cohort=TEST),
        folds="results/evaluation/folds.parquet",
        leakage="results/cohorts/leakage_audit.json",
    output:
        rows="results/evaluation/invariance/{encoder}.parquet",
        coordinates="results/evaluation/invariance/{encoder}.coordinates.parquet",
    log:
        "results/logs/invariance/{encoder}.log",
    benchmark:
        "results/benchmarks/invariance/{encoder}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        outside=outside_flag,
        code=code_of("evaluation.commands:run_invariance"),
    shell:
        "neurorad invariance --encoder {wildcards.encoder} --embeddings {input.embeddings:q}"
        " --patients {input.patients:q} --folds {input.folds:q}"
        " --leakage {input.leakage:q} --seed {params.seed} --bootstrap {params.bootstrap} {params.outside} --out {output.rows:q}"
        " --coordinates {output.coordinates:q} 2> >(tee {log:q} >&2)"


rule stress:
    input:
        embeddings=expand("results/embeddings/{{encoder}}/{cohort}.parquet", cohort=TEST),
        stressed=expand("results/embeddings/{{encoder}}/stress/{cohort}.parquet", cohort=TEST),
        coefficients="results/evaluation/probe/{encoder}.coefficients.parquet",
        folds="results/evaluation/folds.parquet",
        leakage="results/cohorts/leakage_audit.json",
    output:
        "results/evaluation/stress/{encoder}.parquet",
    log:
        "results/logs/stress/{encoder}.log",
    benchmark:
        "results/benchmarks/stress/{encoder}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        code=code_of("evaluation.commands:run_stress", resources=["endpoints.yaml"]),
    shell:
        "neurorad stress --encoder {wildcards.encoder} --embeddings {input.embeddings:q} --stressed {input.stressed:q}"
        " --coefficients {input.coefficients:q} --folds {input.folds:q} --leakage {input.leakage:q}"
        " --seed {params.seed} --bootstrap {params.bootstrap} --out {output:q} 2> >(tee {log:q} >&2)"


rule compare:
    input:
        predictions=expand(
            "results/evaluation/{kind}/{encoder}.predictions.parquet",
            kind=["probe", "survival"],
            encoder=ENCODERS + NAMES.ensembles,
        ),
        found=expand(
            "results/evaluation/{kind}/{encoder}.parquet",
            kind=["probe", "survival"],
            encoder=ENCODERS + NAMES.ensembles,
        ),
        folds="results/evaluation/folds.parquet",
        leakage="results/cohorts/leakage_audit.json",
    output:
        "results/evaluation/comparison.parquet",
    log:
        "results/logs/compare.log",
    benchmark:
        "results/benchmarks/compare.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        code=code_of("evaluation.commands:run_compare", resources=["endpoints.yaml"]),
    shell:
        "neurorad compare --predictions {input.predictions:q} --found {input.found:q} --folds {input.folds:q}"
        " --leakage {input.leakage:q}"
        " --seed {params.seed} --bootstrap {params.bootstrap} --out {output:q} 2> >(tee {log:q} >&2)"


rule clean:
    input:
        predictions=expand("results/evaluation/probe/{encoder}.predictions.parquet", encoder=NAMES.probed)
        + expand("results/evaluation/survival/{encoder}.predictions.parquet", encoder=NAMES.evaluated),
        patients="results/cohorts/test_patients.tsv",
        leakage="results/cohorts/leakage_audit.json",
    output:
        "results/evaluation/clean.parquet",
    log:
        "results/logs/clean.log",
    benchmark:
        "results/benchmarks/clean.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        code=code_of("evaluation.commands:run_clean", resources=["endpoints.yaml"]),
    shell:
        "neurorad clean --predictions {input.predictions:q} --test-patients {input.patients:q}"
        " --leakage {input.leakage:q} --seed {params.seed} --bootstrap {params.bootstrap} --out {output:q}"
        " 2> >(tee {log:q} >&2)"


rule reliability:
    input:
        predictions=expand("results/evaluation/probe/{encoder}.predictions.parquet", encoder=NAMES.drawn),
        patients=expand("results/cohorts/{cohort}/patients.tsv", cohort=TEST),
        leakage="results/cohorts/leakage_audit.json",
    output:
        "results/evaluation/reliability.parquet",
    log:
        "results/logs/reliability.log",
    benchmark:
        "results/benchmarks/reliability.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        seed=EVALUATION["seed"],
        bootstrap=EVALUATION["bootstrap"],
        code=code_of("evaluation.commands:run_reliability", resources=["endpoints.yaml"]),
    shell:
        "neurorad reliability --predictions {input.predictions:q} --patients {input.patients:q}"
        " --leakage {input.leakage:q} --seed {params.seed} --bootstrap {params.bootstrap} --out {output:q}"
        " 2> >(tee {log:q} >&2)"
