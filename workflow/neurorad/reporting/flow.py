"""The way of every scan from its release to pretraining or to testing, counted so that each box adds up (Figure 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from neurorad.problems import InputError
from neurorad.reporting.cohort_figures import label_counts
from neurorad.reporting.inputs import Tables
from neurorad.reporting.theme import INK, NothingToDrawError, counted, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = {
    "inventory": "no complete scan in the release",
    "labels": "patient could not be identified or labelled",
    "volume": "preprocessing failed",
    "qc": "failed on the quality control page",
    "leakage": "patient also in a test cohort",
    "repeats": "later time points of a patient",
}
"""Where a scan can leave, in the order of the workflow; a scan leaves once, at the first."""

Scan = tuple[str, str]


@dataclass(frozen=True)
class Flow:
    """Scans by cohort at each point: `found` = sum of `left` + `pretraining` + `evaluated`, cohort by cohort.

    `patients` counts the same points in patients: `found`, `pretraining`, `evaluated` and what `remain`s after a stage
    (a patient of whom one scan leaves may still have others, so these do not add up). `tested` are the patients of the
    scans that are evaluated, as (cohort, patient).
    """

    found: pd.Series
    left: dict[str, pd.Series]
    reasons: dict[str, pd.Series]
    pretraining: pd.Series
    evaluated: pd.Series
    patients: dict[str, pd.Series]
    tested: set[Scan]


def scan_flow(scans: pd.DataFrame, volumes: pd.DataFrame, excluded: pd.DataFrame, manifest: pd.DataFrame) -> Flow:
    """Count the flow from four tables written by three stages, and refuse to draw one that does not add up.

    Args:
        scans: all scans found (`problem` not empty: left out at the inventory).
        volumes: one row a scan that was preprocessed, `status` ok, excluded or failed (by eye).
        excluded: every scan left out, with `stage` and `reason`.
        manifest: the scans to pretrain on; what is kept and not in it is evaluated.

    Raises:
        InputError: unknown stage, a kept scan without a volume, a manifest scan that was left out,
            or a scan listed twice.
    """
    unknown = sorted(set(excluded["stage"]) - set(STAGES))
    if unknown:
        raise InputError(f"excluded: unknown stage {', '.join(unknown)}; known are {', '.join(STAGES)}")
    for name, table in (("scans", scans), ("volumes", volumes), ("manifest", manifest)):
        if table.duplicated(["cohort", "scan"]).any():
            raise InputError(f"{name}: {int(table.duplicated(['cohort', 'scan']).sum())} scans are listed twice")

    why = _reasons(scans, volumes, excluded)
    found = _keys(scans) | set(why)
    usable = _keys(volumes[volumes["status"] == "ok"])
    kept = found - set(why)
    if kept - usable:
        raise InputError(
            f"flow: {len(kept - usable)} scans have neither a usable volume nor a reason for being left out, "
            f"first {_name(kept - usable)}; add the volumes.tsv and excluded.tsv of every cohort"
        )
    chosen = _keys(manifest)
    if chosen - kept:
        raise InputError(
            f"flow: {len(chosen - kept)} scans of the manifest were left out or never found, "
            f"first {_name(chosen - kept)}"
        )
    cohorts = sorted({cohort for cohort, _ in found})
    patient = {(row.cohort, str(row.scan)): str(row.patient) for row in scans.itertuples()}

    def of(some: set[Scan]) -> set[Scan]:
        return {(scan[0], patient.get(scan, scan[1])) for scan in some}

    def people(some: set[Scan]) -> pd.Series:
        return _by_cohort(of(some), cohorts)

    left = {stage: {scan for scan, (at, _) in why.items() if at == stage} for stage in STAGES}
    remaining, here = {}, found
    for stage in STAGES:
        here = here - left[stage]
        remaining[stage] = people(here)
    reasons = {
        stage: pd.Series([reason for at, reason in why.values() if at == stage], dtype=object).value_counts()
        for stage in STAGES
    }
    return Flow(
        found=_by_cohort(found, cohorts),
        left={stage: _by_cohort(left[stage], cohorts) for stage in STAGES},
        reasons=reasons,
        pretraining=_by_cohort(chosen, cohorts),
        evaluated=_by_cohort(kept - chosen, cohorts),
        patients={
            "found": people(found),
            **remaining,
            "pretraining": people(chosen),
            "evaluated": people(kept - chosen),
        },
        tested=of(kept - chosen),
    )


def evaluated_labels(flow: Flow, patients: pd.DataFrame, decisions: pd.DataFrame | None) -> pd.DataFrame:
    """`label_counts` of the patients who are evaluated, over all cohorts: each row's n + left_open + not_stated is their
    number (a patient without a row in patients.tsv has no label stated)."""
    mine = [key in flow.tested for key in zip(patients["cohort"], patients["patient"].astype(str), strict=True)]
    counts = (
        label_counts(patients[mine], decisions).groupby("label", sort=False)[["n", "n_positive", "left_open"]].sum()
    )
    return counts.assign(patients=len(flow.tested), not_stated=len(flow.tested) - counts["n"] - counts["left_open"])


def _reasons(scans: pd.DataFrame, volumes: pd.DataFrame, excluded: pd.DataFrame) -> dict[Scan, tuple[str, str]]:
    """Scan -> (stage, reason) of its first leaving; the inventory's and the volumes' own tables count as well."""
    problem = scans["problem"].fillna("").astype(str)
    parts = [
        _with_scan(excluded)[["cohort", "scan", "stage", "reason"]],
        scans[problem != ""].assign(stage="inventory", reason=problem[problem != ""]),
        volumes[volumes["status"] != "ok"].assign(
            stage=lambda t: t["status"].map({"failed": "qc"}).fillna("volume"),
            reason=lambda t: t.get("reason", t["status"]),
        ),
    ]
    why: dict[Scan, tuple[str, str]] = {}
    for stage in STAGES:
        for part in parts:
            for row in part[part["stage"] == stage].itertuples():
                why.setdefault((row.cohort, str(row.scan)), (stage, str(row.reason)))
    return why


def _with_scan(excluded: pd.DataFrame) -> pd.DataFrame:
    """Without the patients of a label table who have no scan."""
    return excluded[excluded["scan"].fillna("").astype(str) != ""]


def _keys(table: pd.DataFrame) -> set[Scan]:
    return set(zip(table["cohort"], table["scan"].astype(str), strict=True))


def _name(scans: set[Scan]) -> str:
    return "/".join(min(scans))


def _by_cohort(scans: set[Scan], cohorts: list[str]) -> pd.Series:
    return pd.Series([cohort for cohort, _ in scans], dtype=object).value_counts().reindex(cohorts, fill_value=0)


def draw_flow(tables: Tables) -> Figure:
    """Boxes of scans and patients from found to pretrained on or tested, and why the others left."""
    flow = scan_flow(tables.scans, tables.volumes, tables.excluded, tables.manifest)
    if not flow.found.sum():
        raise NothingToDrawError("no scan was found")
    boxes = _boxes(flow)
    heights = [max(_height(main), _height(side)) for main, side in boxes]
    last = _split(flow)
    labels = [] if tables.patients is None else _label_lines(flow, tables.patients, tables.decisions)
    total = sum(heights) + 0.3 * len(heights) + max(map(_height, last)) + (0.3 + _height(labels) if labels else 0)
    figure = new_figure(total + 0.2)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 7.0)
    axes.set_ylim(-0.05, total + 0.05)
    top = total
    # How far below its row's top a main box begins, where the box beside it is higher; the split begins at its own.
    insets = [(height - _height(main)) / 2 for (main, _), height in zip(boxes, heights, strict=True)]
    for (main, side), height, next_inset in zip(boxes, heights, [*insets[1:], 0], strict=True):
        middle = top - height / 2
        _box(axes, 0.05, middle, 3.2, main)
        if side:
            _box(axes, 3.75, middle, 3.2, side, fill="#F4F0E8")
            _arrow(axes, (3.25, middle), (3.75, middle))
        below = middle - _height(main) / 2
        _arrow(axes, (1.65, below), (1.65, top - height - 0.3 - next_inset))
        top -= height + 0.3
    line = top + 0.02
    for x, lines, fill in ((0.05, last[0], "#E3EEF6"), (3.75, last[1], "#E5F2EA")):
        _box(axes, x, top - _height(lines) / 2, 3.2, lines, fill=fill)
    axes.plot([1.65, 5.35], [line + 0.13] * 2, color=INK, lw=0.8)
    _arrow(axes, (5.35, line + 0.13), (5.35, top))
    if labels:
        below = top - max(map(_height, last)) - 0.3
        _box(axes, 0.05, below - _height(labels) / 2, 6.9, labels, fill="#E5F2EA")
        _arrow(axes, (5.35, top - _height(last[1])), (5.35, below))
    finish(figure, tables.leakage)
    figure.set_label(
        f"{counted(flow.found.sum(), 'scan')} found, {int(flow.pretraining.sum())} for pretraining, "
        f"{int(flow.evaluated.sum())} for evaluation, {int(sum(s.sum() for s in flow.left.values()))} left out."
    )
    return figure


def _boxes(flow: Flow) -> list[tuple[list[str], list[str]]]:
    """Main box and the box of what leaves beside it, as lines of text, from top to bottom."""
    rows = []
    here, people = flow.found, flow.patients["found"]
    title = "Scans found"
    for stage, meaning in STAGES.items():
        gone = flow.left[stage]
        if gone.sum():
            side = [f"Left out: {int(gone.sum())}", f"{meaning}:", *_reason_lines(flow.reasons[stage])]
            rows.append(([_headline(title, here, people), *_cohort_lines(here, people)], side))
            here, people = here - gone, flow.patients[stage]
            title = {
                "inventory": "Complete scans",
                "labels": "Known patients",
                "volume": "Volumes",
                "qc": "Passed volumes",
            }.get(stage, "Kept")
    rows.append(([_headline(title if rows else "Scans found, none left out", here, people)], []))
    return rows


def _split(flow: Flow) -> tuple[list[str], list[str]]:
    return (
        [
            _headline("Pretraining", flow.pretraining, flow.patients["pretraining"]),
            *_cohort_lines(flow.pretraining, flow.patients["pretraining"]),
        ],
        [
            _headline("Evaluation only", flow.evaluated, flow.patients["evaluated"]),
            *_cohort_lines(flow.evaluated, flow.patients["evaluated"]),
        ],
    )


def _label_lines(flow: Flow, patients: pd.DataFrame, decisions: pd.DataFrame | None, each: int = 4) -> list[str]:
    """`label: known + left open + not stated`, some a line, of every label that is known or left open anywhere."""
    counts = evaluated_labels(flow, patients, decisions)
    counts = counts[(counts["n"] > 0) | (counts["left_open"] > 0)]
    told = [f"{name}: {row['n']} + {row['left_open']} + {row['not_stated']}" for name, row in counts.iterrows()]
    title = f"Labels of the {len(flow.tested)} evaluated patients: known + left open by a decision + not stated"
    return [title, *("  ·  ".join(told[i : i + each]) for i in range(0, len(told), each))] if told else []


def _headline(title: str, scans: pd.Series, patients: pd.Series) -> str:
    return f"{title}: {int(scans.sum())} ({counted(patients.sum(), 'patient')})"


def _cohort_lines(scans: pd.Series, patients: pd.Series) -> list[str]:
    """`cohort scans (patients)`, two a line."""
    pairs = [f"{cohort} {int(n)} ({int(patients[cohort])})" for cohort, n in scans.items() if n]
    return ["  ·  ".join(pairs[i : i + 2]) for i in range(0, len(pairs), 2)]


def _reason_lines(reasons: pd.Series, most: int = 4) -> list[str]:
    lines = [f"{int(n)}  {_shorten(str(reason))}" for reason, n in reasons.head(most).items()]
    rest = reasons.iloc[most:]
    return [*lines, f"{int(rest.sum())}  for {len(rest)} other reasons"] if len(rest) else lines


def _shorten(text: str, most: int = 56) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _height(lines: list[str]) -> float:
    return 0.2 + 0.155 * len(lines) if lines else 0.0


def _box(axes: Axes, x: float, middle: float, width: float, lines: list[str], fill: str = "white") -> None:
    from matplotlib.patches import Rectangle

    height = _height(lines)
    axes.add_patch(Rectangle((x, middle - height / 2), width, height, facecolor=fill, edgecolor=INK, lw=0.7))
    for i, line in enumerate(lines):
        axes.text(
            x + 0.1,
            middle + height / 2 - 0.1 - 0.155 * (i + 0.5),
            line,
            va="center",
            fontsize=7.5 if i == 0 else 6.5,
            weight="bold" if i == 0 else "normal",
        )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": INK, "shrinkA": 0, "shrinkB": 0}
    )
