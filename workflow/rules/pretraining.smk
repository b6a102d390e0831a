"""One encoder a job: a method, an objective, a seed. The manifest's content decides whether it runs again."""

if not FROZEN:

    rule pretrain:
        input:
            manifest=manifest,
            reference=reference_run,
        output:
            multiext(
                "results/encoders/{method}-{objective}-s{seed}/",
                "encoder.safetensors",
                "card.json",
                "history.csv",
                "groups.csv",
            ),
        log:
            "results/logs/pretrain/{method}-{objective}-s{seed}.log",
        benchmark:
            "results/benchmarks/pretrain/{method}-{objective}-s{seed}.tsv"
        conda:
            "../../envs/neurorad.yaml"
        resources:
            gpu=1,
            mem_mb=pretraining_memory,
            runtime=pretraining_minutes,
        params:
            preset=PRETRAINING["preset"],
            manifest=manifest_digest,
            folder=folder_of,
            reference=reference_flag,
        shell:
            "neurorad pretrain --method {wildcards.method} --objective {wildcards.objective} --seed {wildcards.seed}"
            " --preset {params.preset} --manifest {input.manifest:q} --out {params.folder:q} --threads {threads}"
            " {params.reference}"
            " 2> >(tee {log:q} >&2)"
