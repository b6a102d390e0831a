"""Raw scan to volume, in shards of a cohort; an index and a visual QC page for each cohort."""


rule volumes:
    input:
        from_phantom,
        scans=inventory_of,
        series=series_table,
    output:
        "results/volumes/{cohort}/shards/{shard}.tsv",
    log:
        "results/logs/volumes/{cohort}-{shard}.log",
    benchmark:
        "results/benchmarks/volumes/{cohort}-{shard}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    resources:
        mem_mb=3000,
    params:
        settings=canonical(config["imaging"]),
        shards=lambda wildcards: shards(wildcards.cohort),
        rows=shard_rows,
        folder=lambda wildcards, output: str(Path(output[0]).parents[1]),
        code=code_of("imaging.commands:run_volumes"),
        series=series_flag,
    shell:
        "neurorad volumes --scans {input.scans:q} --settings {params.settings:q} --shard {wildcards.shard}"
        " --shards {params.shards} {params.series} --folder {params.folder:q} --threads {threads} --out {output:q}"
        " 2> >(tee {log:q} >&2)"


rule volumes_index:
    input:
        shards=lambda wildcards: expand(
            "results/volumes/{{cohort}}/shards/{shard}.tsv", shard=range(shards(wildcards.cohort))
        ),
        verdicts=failing_verdicts,
    output:
        "results/volumes/{cohort}/volumes.tsv",
    log:
        "results/logs/volumes_index/{cohort}.log",
    benchmark:
        "results/benchmarks/volumes_index/{cohort}.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        # A verdict that fails nothing makes no index again, and nothing that depends on it.
        failed=failed,
        verdicts=verdict_flag,
        code=code_of("imaging.commands:run_index"),
    shell:
        "neurorad volumes-index {input.shards:q} {params.verdicts} --out {output:q} 2> >(tee {log:q} >&2)"


rule qc:
    input:
        volumes="results/volumes/{cohort}/volumes.tsv",
        verdicts=verdicts,
    output:
        "results/volumes/{cohort}/qc.html",
    log:
        "results/logs/qc/{cohort}.log",
    benchmark:
        "results/benchmarks/qc/{cohort}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        verdicts=verdict_flag,
        code=code_of("imaging.commands:run_qc"),
    shell:
        "neurorad qc --volumes {input.volumes:q} {params.verdicts} --out {output:q} 2> >(tee {log:q} >&2)"
