"""Who is who: inventory of each release, labels and other names, the leakage audit and what was left out."""


checkpoint inventory:
    input:
        from_phantom,
    output:
        scans="results/cohorts/{cohort}/scans.tsv",
        unknown="results/cohorts/{cohort}/unknown_files.txt",
    log:
        "results/logs/inventory/{cohort}.log",
    benchmark:
        "results/benchmarks/inventory/{cohort}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        flags=lambda wildcards: inventory_flags(COHORTS[wildcards.cohort], config["imaging"]),
        listing=listing,
        code=code_of("cohorts.commands:run_inventory"),
    shell:
        "neurorad inventory --cohort {wildcards.cohort} {params.flags} --out {output.scans:q}"
        " --unknown {output.unknown:q} 2> >(tee {log:q} >&2)"


rule labels:
    input:
        from_phantom,
        label_table,
        scans="results/cohorts/{cohort}/scans.tsv",
    output:
        patients="results/cohorts/{cohort}/patients.tsv",
        dictionary="results/cohorts/{cohort}/patients.json",
        aliases="results/cohorts/{cohort}/aliases.tsv",
        problems="results/cohorts/{cohort}/label_problems.tsv",
        decisions="results/cohorts/{cohort}/decisions.tsv",
    log:
        "results/logs/labels/{cohort}.log",
    benchmark:
        "results/benchmarks/labels/{cohort}.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        flags=label_flags_of,
        unknown=config.get("labels", {}).get("unknown", "stop"),
        code=label_code,
    shell:
        "neurorad labels {params.flags} --scans {input.scans:q} --unknown {params.unknown} --out {output.patients:q}"
        " --dictionary {output.dictionary:q} --aliases {output.aliases:q} --problems {output.problems:q}"
        " --decided {output.decisions:q} 2> >(tee {log:q} >&2)"


# Pretraining waits for this checkpoint and then compares the manifest's content: no audit, no pretraining, and a
# test cohort that overlaps nothing trains nothing again.
checkpoint audit:
    input:
        [crosswalk["table"] for crosswalk in CROSSWALKS],
        volumes=expand("results/volumes/{cohort}/volumes.tsv", cohort=COHORTS),
        aliases=expand("results/cohorts/{cohort}/aliases.tsv", cohort=COHORTS),
        tables=group_tables,
    output:
        manifest="results/cohorts/pretraining_manifest.tsv",
        removed="results/cohorts/removed_by_audit.tsv",
        test_patients="results/cohorts/test_patients.tsv",
        report="results/cohorts/leakage_audit.json",
    log:
        "results/logs/audit.log",
    benchmark:
        "results/benchmarks/audit.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        cohorts=canonical(AUDITED),
        crosswalks=canonical(CROSSWALKS),
        groups=lambda wildcards, input: group_flags(PRETRAINING, input.tables),
        encoders=f"--frozen {shlex.quote(FROZEN)}" if FROZEN else "--encoders results/encoders",
        code=code_of("cohorts.commands:run_audit"),
    shell:
        "neurorad audit --cohorts {params.cohorts:q} --crosswalks {params.crosswalks:q} {params.groups} {params.encoders}"
        " --volumes {input.volumes:q} --aliases {input.aliases:q} --manifest {output.manifest:q}"
        " --removed {output.removed:q} --test-patients {output.test_patients:q} --report {output.report:q} 2> >(tee {log:q} >&2)"


rule excluded:
    input:
        scans="results/cohorts/{cohort}/scans.tsv",
        volumes="results/volumes/{cohort}/volumes.tsv",
        labels="results/cohorts/{cohort}/label_problems.tsv",
        removed="results/cohorts/removed_by_audit.tsv",
        manifest="results/cohorts/pretraining_manifest.tsv",
    output:
        "results/cohorts/{cohort}/excluded.tsv",
    log:
        "results/logs/excluded/{cohort}.log",
    benchmark:
        "results/benchmarks/excluded/{cohort}.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        code=code_of("cohorts.commands:run_excluded"),
    shell:
        "neurorad excluded --scans {input.scans:q} --volumes {input.volumes:q} --labels {input.labels:q}"
        " --removed {input.removed:q} --manifest {input.manifest:q} --out {output:q} 2> >(tee {log:q} >&2)"
