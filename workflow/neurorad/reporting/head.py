"""The head of the report: the answer, the leakage stamp, and what was run on what."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
import yaml

from neurorad import __version__
from neurorad.reporting.marker_figures import PROTOCOL, auc_differences, verdict
from neurorad.reporting.theme import counted


def head(
    title: str,
    tables: Mapping[str, pd.DataFrame],
    excluded: pd.DataFrame,
    audit: Mapping[str, Any],
    config: str,
    date: str,
) -> str:
    """The page's header, as HTML."""
    settings = yaml.safe_load(config) or {}
    settings = settings if isinstance(settings, dict) else {}
    stamp = str(audit["stamp"])
    state = (
        f'<p class="alarm">{escape(stamp)}</p>'
        if stamp
        else '<p class="fine">No overlap between pretraining and test patients was left by the leakage audit.</p>'
    )
    synthetic = (
        "<p><strong>Synthetic data.</strong> This is the phantom study: it shows that the workflow works and says nothing "
        "about patients.</p>"
        if "phantom" in settings
        else ""
    )
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(tables, excluded, settings, date)
    )
    return (
        f'<div class="bar"><h1>{escape(title)}</h1><button type="button" id="theme" hidden>Dark page</button></div>'
        '<p class="research">Research use only. Not a medical device; no number here may guide the care of a patient.</p>'
        f"{synthetic}{state}{_plan(tables)}{_answer(tables)}<dl class='facts'>{facts}</dl>"
    )


def _plan(tables: Mapping[str, pd.DataFrame]) -> str:
    """The stamp of the analysis plan that stands in the tables; several, if tables of different plans were given."""
    held = [table["plan"].dropna().astype(str) for table in tables.values() if "plan" in table]
    stamps = sorted({text for column in held for text in column}) or ["no table says"]
    return f"<p>Analysis plan: {escape('; '.join(stamps))}.</p>"


def _answer(tables: Mapping[str, pd.DataFrame]) -> str:
    comparison = tables.get("comparison")
    if comparison is None or not (comparison["metric"] == "auc_difference").any():
        return "<p><strong>Does +DRO help?</strong> No paired comparison of AUCs could be made, so this report cannot say.</p>"
    return f"<p><strong>Does +DRO help?</strong> {escape(verdict(auc_differences(comparison)))}</p>"


def _facts(
    tables: Mapping[str, pd.DataFrame], excluded: pd.DataFrame, settings: Mapping[str, Any], date: str
) -> list[tuple[str, str]]:
    """Name and text of each fact; what was not given is left out."""
    probe, cohorts = tables.get("probe"), tables.get("supplementary_1_cohorts")
    pretraining, evaluation = settings.get("pretraining") or {}, settings.get("evaluation") or {}
    finished = "freeze" in pretraining
    facts = [("Made", f"by NeuroRAD {__version__}" + (f" on {date}" if date else ""))]
    if cohorts is not None:
        each = cohorts[cohorts["cohort"] != "total"]
        facts += [
            (
                "Pretrained on",
                "not known here: finished encoders were given"
                if finished
                else _counted(each, "pretraining_scans", "pretraining_patients"),
            ),
            ("Tested on", _counted(each, "evaluated_scans", "evaluated_patients")),
        ]
    if probe is not None:
        within = probe[probe["protocol"] == PROTOCOL]
        known = probe[(probe["metric"] == "auc") & (probe["protocol"] == PROTOCOL)]
        facts += [
            ("Encoders", ", ".join(sorted(probe["encoder"].astype(str).unique()))),
            ("Sites", ", ".join(sorted(set(within["site"].astype(str))))),
            ("Endpoints", ", ".join(sorted(set(probe["endpoint"].astype(str))))),
            (
                "Not estimable",
                f"{int(known['value'].isna().sum())} of {len(known)} AUCs within a site; they are shown as such",
            ),
        ]
    if pretraining and not finished:
        facts.append(("Pretraining", "; ".join(f"{key} {_text(value)}" for key, value in pretraining.items())))
    if evaluation:
        facts.append(("Evaluation", "; ".join(f"{key} {_text(value)}" for key, value in evaluation.items())))
    facts.append(("Left out", f"{counted(len(excluded), 'entry', 'entries')}, each with its reason below"))
    return facts


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _counted(cohorts: pd.DataFrame, scans: str, patients: str) -> str:
    part = cohorts[cohorts[scans].fillna(0).astype(int) > 0]
    if part.empty:
        return "nobody"
    each = [
        f"{cohort} ({counted(n, 'scan')} of {counted(m, 'patient')})" if n != m else f"{cohort} ({int(n)})"
        for cohort, n, m in zip(part["cohort"], part[scans], part[patients], strict=True)
    ]
    return f"{counted(part[scans].sum(), 'scan')} of {counted(part[patients].sum(), 'patient')}: {', '.join(each)}"
