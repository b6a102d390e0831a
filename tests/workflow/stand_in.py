"""Stands in for `neurorad` in tests of the DAG: each verb writes in a moment what the next ones need, and nothing else.

What it writes follows from what it reads, as in the real verbs: the manifest lists the scans of the pretraining cohorts, so
that its bytes change only when they do.
"""

import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    verb, *rest = arguments
    flags: dict[str, list[str]] = {"": []}
    name = ""
    for argument in rest:
        if argument.startswith("--"):
            name = argument
            flags[name] = []
        else:
            flags[name].append(argument)

    def write(flag: str, text: str = "", below: str = "") -> None:
        path = Path(flags[flag][0] + below)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, as the real verbs do: Snakemake reads inventories while other jobs write.
        partial = path.with_name(f".writing-{path.name}")
        partial.write_text(text)
        partial.replace(path)

    def read(flag: str) -> str:
        return "".join(Path(path).read_text() for path in flags.get(flag, []))

    match verb:
        case "inventory":
            scans = sorted(path.name for path in Path(flags["--images"][0]).iterdir() if path.is_dir())
            write("--out", "cohort\tscan\n" + "".join(f"{flags['--cohort'][0]}\t{scan}\n" for scan in scans))
            write("--unknown")
        case "labels":
            write("--out", read("--table"))
            for flag in ("--dictionary", "--aliases", "--problems", "--decided"):
                write(flag)
        case "volumes":
            write("--out", read("--scans"))
        case "volumes-index":
            failed = {row.split("\t")[0] for row in read("--verdicts").splitlines() if row.split("\t")[1:2] == ["fail"]}
            rows = read("").splitlines()
            write("--out", "".join(f"{row}\n" for row in rows if not failed & set(row.split("\t"))))
        case "audit":
            cohorts = json.loads(flags["--cohorts"][0])
            rows = {
                row
                for row in read("--volumes").splitlines()
                if "pretrain" in cohorts.get(row.split("\t")[0], {}).get("role", [])
            }
            write("--manifest", "".join(f"{row}\n" for row in sorted(rows)))
            for flag in ("--removed", "--test-patients", "--report"):
                write(flag)
        case "pretrain":
            for file in ("encoder.safetensors", "card.json", "history.csv", "groups.csv"):
                write("--out", below=f"/{file}")
        case "explain":
            for endpoint in flags["--endpoint"]:
                for file in ("maps.npz", "agreement.parquet", "check_scans.parquet", "checks.parquet", "viewer.html"):
                    write("--out", below=f"/{endpoint}/{file}")
        case "figure":
            for suffix in (".svg", ".png", ".pdf", ".csv"):
                write("--out", below=suffix)
        case "training-pages":
            for path in flags["--history"]:
                write("--out", below=f"/training_{Path(path).parent.name}.svg")
        case "documents":
            for name in ("TRIPOD-AI", "CLAIM-2024"):
                write("--out", below=f"/{name}.md")
                write("--out", below=f"/{name}.csv")
            for flag, kind in (("--encoders", "model_cards"), ("--cohorts", "data_sheets")):
                for folder in flags[flag]:
                    write("--out", below=f"/{kind}/{Path(folder).name}.md")
        case "crate":
            write("--out")
            for name in ("Snakefile", "workflow.zip", "dag.dot", "environment.tsv"):
                Path(flags["--out"][0]).with_name(name).touch()
        case "deviations":
            write("--out", "\n".join(rest))
        case "compare" | "clean" | "reliability":
            write("--out")
        case _:
            for flag in ("--out", "--counts", "--predictions", "--coefficients", "--curves", "--coordinates"):
                if flag in flags:
                    write(flag)


main(sys.argv[3:])
