"""Documents to publish with a study, in Markdown: reporting checklists, a model card an encoder, a data sheet a cohort."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from neurorad import RESOURCES
from neurorad.files import read_yaml
from neurorad.provenance.study_facts import ABSENT, Study, demographics, facts, label_counts, reasons

CHECKLISTS = ("TRIPOD-AI", "CLAIM-2024")
TO_WRITE = "AUTHOR MUST WRITE"


def documents(study: Study) -> dict[str, str]:
    """Path below `results/provenance` -> text, of every document."""
    known = facts(study)
    return {
        **{f"{name}.md": checklist(name, known) for name in CHECKLISTS},
        **{f"model_cards/{encoder}.md": model_card(encoder, study) for encoder in study.cards},
        **{f"data_sheets/{cohort}.md": data_sheet(cohort, study) for cohort in study.config["cohorts"]},
    }


def items_of(name: str) -> dict[str, Any]:
    """A checklist, as its file in `resources/checklists` holds it."""
    return read_yaml(RESOURCES / "checklists" / f"{name}.yaml")


def checklist_rows(name: str, known: Mapping[str, str]) -> pd.DataFrame:
    """item, section, asks_for, this_study: what it answers, or what the author must write.

    Raises:
        KeyError: an item uses a fact that `known` lacks.
    """
    rows = []
    for entry in items_of(name)["items"]:
        parts = [entry["answer"].format_map(known)] if "answer" in entry else []
        parts += [f"{TO_WRITE}: {entry['author'].format_map(known)}"] if "author" in entry else []
        rows.append((entry["item"], entry["section"], entry["asks"], " ".join(parts)))
    return pd.DataFrame(rows, columns=["item", "section", "asks_for", "this_study"])


def checklist(name: str, known: Mapping[str, str]) -> str:
    """The same as a page."""
    declared, rows = items_of(name), checklist_rows(name, known)
    answered = int((~rows["this_study"].str.startswith(TO_WRITE)).sum())
    return (
        f"# {declared['title']}\n\n{declared['citation']}. Items in our own words; the original decides.\n\n"
        f"{answered} of {len(rows)} items are filled, at least in part, from this study's own files; paths are relative to "
        f"this page. The others are marked {TO_WRITE}.\n\n" + table(rows.columns, rows.to_numpy().tolist())
    )


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; what is in a cell cannot end it, and is no HTML."""
    lines = [[_cell(value) for value in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    text = re.sub(r"\s+", " ", str(value)).strip()
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def model_card(encoder: str, study: Study) -> str:
    """What an encoder is, what it learned from, what it is worth here, and what it must not be used for."""
    card = study.cards[encoder]
    preprocessing = card["preprocessing"]
    groups = [(name, count["patients"], count["scans"]) for name, count in card["groups"].items()]
    return "\n".join(
        [
            f"# Model card: {encoder}\n",
            table(
                ("", ""),
                [
                    ("what", f"3D {card['architecture']['name']}, {card['parameters']:,} parameters"),
                    ("gives", f"{card['dimension']} numbers a scan"),
                    ("learned by", f"{card['method']}, objective {card['objective']}, seed {card['seed']}, no labels"),
                    ("preset", card["preset"]["name"]),
                    ("weights", f"encoder.safetensors, sha256 {study.weights[encoder]}"),
                    ("software", ", ".join(f"{name} {number}" for name, number in card["versions"].items())),
                    (
                        "licence",
                        "Apache-2.0 for code and weights made by it; terms of the pretraining data: ../data_sheets",
                    ),
                    ("analysis plan", study.plan),
                ],
            ),
            "## Use\n",
            "Research on embeddings of brain-tumour MRI. Not a medical device; no number may guide the care of a patient. "
            "Not for scans prepared otherwise than below.\n",
            f"Input: {', '.join(card['sequences'])} in this order; {preprocessing['normalisation']}; "
            f"{' x '.join(map(str, preprocessing['shape']))} voxels of {preprocessing['spacing_mm']} mm, "
            f"{preprocessing['axes']}, {preprocessing['atlas']}. Missing sequence: {preprocessing['missing_sequence']}.\n",
            "## Pretraining data\n",
            f"{card['scans']} scans of {card['patients']} patients; manifest sha256 {card['manifest_sha256']}.\n",
            table(("group", "patients", "scans"), groups),
            f"Overlap with test patients: {study.audit['stamp'] or 'none was left by the leakage audit'}.\n",
            "## What it is worth in this study\n",
            _performance(encoder, study.tables),
            "## Limits\n",
            "Small groups give wide intervals; rows that could not be estimated say why in the tables. What an encoder knows "
            "of the site is in ../../tables/invariance.csv. Who was pretrained on decides for whom it can work.\n",
        ]
    )


def _performance(encoder: str, tables: Mapping[str, pd.DataFrame]) -> str:
    rows = []
    for name, metrics in (("probe", ("auc", "balanced_accuracy")), ("survival", ("c_index",))):
        held = tables.get(name)
        if held is None:
            continue
        mine = held[
            (held["encoder"] == encoder) & (held["protocol"] == "within_site") & held["metric"].isin(metrics)
        ].sort_values(["endpoint", "site", "metric"])
        for row in mine.itertuples():
            value = "not estimable" if pd.isna(row.value) else f"{row.value:.3f}"
            interval = "" if pd.isna(row.ci_low) else f"{row.ci_low:.3f} to {row.ci_high:.3f}"
            rows.append((row.endpoint, row.site, row.metric, value, interval, int(row.n)))
    if not rows:
        return f"Numbers of this encoder: {ABSENT}.\n"
    head = ("endpoint", "site", "metric", "value", "95 % interval", "n")
    return "Within site, out of fold, on frozen embeddings:\n\n" + table(head, rows)


def data_sheet(cohort: str, study: Study) -> str:
    """A cohort after the questions of Gebru 2021: what is in it, where it is from, what was done, what it may be used for."""
    block = study.config["cohorts"][cohort]
    source = study.sources[block["release"]]
    scans = study.scans[study.scans["cohort"] == cohort]
    excluded = study.excluded[study.excluded["cohort"] == cohort]
    cites = ", ".join(source["cite"]) or TO_WRITE
    overlaps = [entry for entry in study.audit.get("overlaps", []) if entry.get("cohort") == cohort]
    of_phantom = "phantom" in study.config and block["images"].startswith("results/phantom")
    note = "**Synthetic data in the layout of this release: no patient is in it.**\n" if of_phantom else ""
    states = ", ".join(f"{state} {count}" for state, count in scans["state"].value_counts().items()) or "not known"
    return "\n".join(
        [
            f"# Data sheet: {cohort}\n\n{note}",
            table(
                ("", ""),
                [
                    ("release", f"{block['release']}: {source['name']}"),
                    ("role", " and ".join(block["role"])),
                    ("licence or terms", source["terms"]),
                    ("cite", cites),
                ],
            ),
            "## Composition\n",
            table(
                ("", ""),
                [
                    ("scans found", len(scans)),
                    ("patients", demographics(study.patients, cohort)),
                    ("state of the images", states),
                    ("with a tumour mask", int(scans["tumour"].notna().sum()) if "tumour" in scans else 0),
                    ("labels (known, positive)", label_counts(study.tables.get("supplementary_2_labels"), [cohort])),
                    ("left out", reasons(excluded)),
                    ("scans taken out of pretraining for overlap", len(overlaps)),
                ],
            ),
            f"Why each scan was left out: ../../cohorts/{cohort}/excluded.tsv. Labels as read: "
            f"../../cohorts/{cohort}/patients.json.\n",
            "## Collection\n",
            f"{TO_WRITE}: who was scanned, when and where, consent or waiver, ethics committee, scanners and protocols.\n",
            "## Preparation\n",
            f"{facts(study)['imaging']}. Quality of each volume: ../../volumes/{cohort}/qc.html.\n",
            "## Uses and limits\n",
            "Used here for pretraining without labels and for probes of frozen embeddings, as its role says. Not for clinical "
            f"decisions. {TO_WRITE}: whom the cohort does not represent.\n",
            "## Distribution and maintenance\n",
            f"Not distributed with this study: {source['terms']}. {TO_WRITE}: contact.\n",
        ]
    )
