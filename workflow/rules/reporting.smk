"""Figures and tables, each named after the paper's figure or table that it answers, and the report that joins them."""

for name in SHOWN:

    rule:
        name:
            f"figure_{name}"
        input:
            **drawn_from((*FIGURES[name].needs, *FIGURES[name].also)),
            audit="results/cohorts/leakage_audit.json",
        output:
            report(f"results/figures/{name}.svg", caption=CAPTIONS / f"{name}.rst", category=FIGURES[name].answers),
            *multiext(f"results/figures/{name}", ".png", ".pdf", ".csv"),
        log:
            f"results/logs/figures/{name}.log",
        benchmark:
            f"results/benchmarks/figures/{name}.tsv"
        localrule: True
        conda:
            "../../envs/neurorad.yaml"
        params:
            name=name,
            sources=source_flags,
            stem=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
            code=figure_code(name),
        shell:
            "neurorad figure {params.name} {params.sources} --audit {input.audit:q} --out {params.stem:q}"
            " 2> >(tee {log:q} >&2)"


rule figure_training_pages:
    input:
        history=FILES["history"],
        groups=FILES["groups"],
        audit="results/cohorts/leakage_audit.json",
    output:
        report(
            expand("results/figures/training_{encoder}.svg", encoder=ENCODERS),
            caption=CAPTIONS / "training_pages.rst",
            category=FIGURES["fig2_training"].answers,
        ),
    log:
        "results/logs/figures/training_pages.log",
    benchmark:
        "results/benchmarks/figures/training_pages.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        sources=source_flags,
        folder=folder_of,
        code=lambda wildcards: canonical(
            [code_of("reporting.commands:run_training_pages")(wildcards), caption("training_pages")]
        ),
    shell:
        "neurorad training-pages {params.sources} --audit {input.audit:q} --out {params.folder:q} 2> >(tee {log:q} >&2)"


for name in WRITTEN:

    rule:
        name:
            f"table_{name}"
        input:
            **drawn_from(TABLES[name][1]),
        output:
            f"results/tables/{name}.csv",
        log:
            f"results/logs/tables/{name}.log",
        benchmark:
            f"results/benchmarks/tables/{name}.tsv"
        localrule: True
        conda:
            "../../envs/neurorad.yaml"
        params:
            name=name,
            sources=source_flags,
            plan=plan_flags,
            code=code_of(reached_by(TABLES[name][0]), "reporting.inputs:read_tables", "analysis_plan:with_plan"),
        shell:
            "neurorad table {params.name} {params.sources} {params.plan} --out {output:q} 2> >(tee {log:q} >&2)"


rule config:
    output:
        "results/provenance/config.yaml",
    log:
        "results/logs/config.log",
    benchmark:
        "results/benchmarks/config.tsv"
    localrule: True
    conda:
        "../../envs/neurorad.yaml"
    params:
        # A function, as a cohort's pattern holds braces that are no wildcards of this rule.
        text=lambda wildcards: yaml.safe_dump(dict(config), sort_keys=False),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule report:
    input:
        figures=expand("results/figures/{name}.{kind}", name=SHOWN, kind=["svg", "csv"]),
        training=expand("results/figures/training_{encoder}.svg", encoder=ENCODERS),
        tables=expand("results/tables/{name}.csv", name=WRITTEN + PROVENANCE_TABLES),
        excluded=FILES["excluded"],
        audit="results/cohorts/leakage_audit.json",
        config="results/provenance/config.yaml",
        pages=PAGES,
        appendix=APPENDIX,
    output:
        report("results/report.html", caption=CAPTIONS / "report.rst", category="NeuroRAD's own report"),
    log:
        "results/logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        "../../envs/neurorad.yaml"
    params:
        code=code_of("reporting.commands:run_report"),
    shell:
        "neurorad report --figures {input.figures:q} {input.training:q} --tables {input.tables:q} --excluded {input.excluded:q}"
        " --audit {input.audit:q} --config {input.config:q} --pages {input.pages:q} --appendix {input.appendix:q}"
        " --out {output:q} 2> >(tee {log:q} >&2)"
