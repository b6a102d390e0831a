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
            accumulate=micro_batches,
            mem_mb=pretraining_memory,
            runtime=pretraining_minutes,
        params:
            preset=PRETRAINING["preset"],
            settings=preset_settings,
            manifest=manifest_digest,
            folder=folder_of,
            reference=reference_flag,
            checkpoint=checkpoint_flag,
            code=code_of("pretraining.commands:pretrain"),
        shell:
            "neurorad pretrain --method {wildcards.method} --objective {wildcards.objective} --seed {wildcards.seed}"
            " --preset {params.preset} --manifest {input.manifest:q} --out {params.folder:q} --threads {threads}"
            " --devices {resources.gpu} --accumulate {resources.accumulate} {params.reference} {params.checkpoint}"
            # The log outlives the signals that make the training write its checkpoint and stop.
            " 2> >(trap '' TERM USR1; tee {log:q} >&2)"
