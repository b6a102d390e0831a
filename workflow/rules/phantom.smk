"""The phantom study: each cohort's release folder, and the truth that no other stage reads."""

if "phantom" in config:

    rule phantom:
        output:
            directory("results/phantom/{cohort}"),
        log:
            "results/logs/phantom/{cohort}.log",
        benchmark:
            "results/benchmarks/phantom/{cohort}.tsv"
        conda:
            "../../envs/neurorad.yaml"
        params:
            flags=phantom_flags,
            code=code_of("phantom.commands:run_phantom", resources=["phantom.yaml"]),
        shell:
            "neurorad phantom --cohort {wildcards.cohort} --out {output:q} {params.flags} 2> >(tee {log:q} >&2)"

    rule phantom_truth:
        output:
            "results/phantom/truth.json",
        log:
            "results/logs/phantom/truth.log",
        benchmark:
            "results/benchmarks/phantom/truth.tsv"
        conda:
            "../../envs/neurorad.yaml"
        params:
            flags=phantom_flags,
            code=code_of("phantom.commands:run_phantom", resources=["phantom.yaml"]),
        shell:
            "neurorad phantom --truth {output:q} {params.flags} 2> >(tee {log:q} >&2)"
