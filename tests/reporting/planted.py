"""A small study with planted numbers: every table a figure may be drawn from."""

import copy
import dataclasses
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd

from neurorad.endpoints import endpoints
from neurorad.reporting.inputs import Tables

PRETRAINING = ("brats-gli-post", "brats-gli-pre", "brats-men", "brats-met", "brats-ped", "lumiere", "mu-glioma-post")
SCANS = 9
"""Of each pretraining cohort."""
SITES = {"ucsf-pdgm": 36, "upenn-gbm": 30, "cuimc": 24}
METHODS = ("byol", "dino", "mae", "moco")
ENCODERS = tuple(f"{method}-{objective}-s0" for method in METHODS for objective in ("base", "dro"))
REFERENCES = ("random-s0", "clinical")
STAMP = "LEAKAGE NOT EXCLUDED: no crosswalk of BraTS 2021 to UCSF-PDGM was given"


def names(encoder: str) -> dict:
    parts = encoder.split("-")
    if encoder == "clinical":
        return {"method": "clinical", "objective": "none", "seed": 0}
    if encoder == "random-s0":
        return {"method": "random", "objective": "none", "seed": 0}
    return {"method": parts[0], "objective": parts[1], "seed": int(parts[2][1:])}


def row(encoder: str, site: str, endpoint: str, metric: str, value: float, half: float, n: int, events: int) -> dict:
    missing = np.isnan(value)
    return {
        "encoder": encoder,
        **names(encoder),
        "site": site,
        "endpoint": endpoint,
        "protocol": "within_site",
        "metric": metric,
        "value": value,
        "ci_low": value - half,
        # No AUC is above 1; other numbers may be.
        "ci_high": min(value + half, 1.0) if metric == "auc" else value + half,
        "n": n,
        "n_positive": events,
        "n_events": events if endpoint == "os" else pd.NA,
        "note": "not estimable: fewer than 5 positive patients" if missing else "",
        "leakage": "",
    }


def cohort_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    scans, patients, volumes, excluded, manifest = [], [], [], [], []
    for cohort, n in [*((c, SCANS) for c in PRETRAINING), *SITES.items()]:
        for i in range(n):
            scan = f"{cohort}-{i:03d}"
            person = {"cohort": cohort, "patient": f"p{i // 2 if cohort == 'lumiere' else i:03d}"}
            problem = "no t2f series found" if i == 0 and cohort in ("lumiere", "upenn-gbm") else ""
            scans.append({**person, "scan": scan, "session": "s1", "problem": problem})
            out = None
            if problem:
                out = ("inventory", problem)
            elif i == 1 and cohort != "cuimc":
                out = ("volume", "registration failed: mutual information below the limit of this cohort")
            elif i == 2 and cohort.startswith("brats-gli"):
                out = ("leakage", "same patient as ucsf-pdgm")
            if not problem:
                bad = out is not None and out[0] == "volume"
                volumes.append(
                    {**person, "scan": scan, "status": "excluded" if bad else "ok", "reason": out[1] if bad else ""}
                )
            if out:
                excluded.append({**person, "scan": scan, "stage": out[0], "reason": out[1]})
            elif cohort in PRETRAINING:
                manifest.append({**person, "scan": scan, "group": cohort, "volume": "v", "sha256": "0"})
            if cohort in SITES or i < 7:
                labels = {name: float(rng.random() < 0.4) if rng.random() < 0.85 else np.nan for name in endpoints()}
                if cohort == "upenn-gbm":
                    labels["1p19q"] = np.nan
                labels["ki67"], labels["grade"] = float(rng.integers(1, 60)), float(rng.integers(2, 5))
                age = np.nan if cohort == "brats-met" else float(np.clip(rng.normal(58, 14), 4, 92))
                labels["left_open"] = "mgmt" if np.isnan(labels["mgmt"]) and i % 2 else np.nan
                alive = rng.random() < 0.2
                labels["os_days"], labels["event"] = float(rng.integers(20, 900)), float(not alive)
                patients.append(
                    {**person, "age": age, "sex": rng.choice(["F", "M", None], p=[0.4, 0.5, 0.1]), **labels}
                )
    columns = {"patients": pd.DataFrame(patients).drop_duplicates(["cohort", "patient"])}
    return {
        "scans": pd.DataFrame(scans),
        "volumes": pd.DataFrame(volumes),
        "excluded": pd.DataFrame(excluded),
        "manifest": pd.DataFrame(manifest),
        "decisions": pd.DataFrame(
            [
                ("upenn-gbm", "mgmt_indeterminate", "missing", "mgmt", "Indeterminate", 3, 2),
                ("ucsf-pdgm", "relative_codeletion", "positive", "1p19q", "relative co-deletion", 6, 6),
            ],
            columns=["cohort", "decision", "choice", "column", "value", "exams", "patients"],
        ),
        **columns,
    }


def training_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    history, groups = [], []
    for encoder in ENCODERS:
        weights = np.ones(len(PRETRAINING)) / len(PRETRAINING)
        for step in range(40):
            history.append({"encoder": encoder, "step": step, "loss": 2 * np.exp(-step / 15) + rng.normal(0, 0.05)})
            weights = weights * np.exp(0.1 * rng.normal(size=len(weights)) * encoder.count("dro"))
            weights /= weights.sum()
            for group, weight in zip(PRETRAINING, weights, strict=True):
                groups.append({"encoder": encoder, "step": step, "group": group, "weight": weight, "count": 2})
    return {"history": pd.DataFrame(history), "groups": pd.DataFrame(groups)}


def evaluation_tables(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    probe, survival, invariance, comparison = [], [], [], []
    for site, n in SITES.items():
        for endpoint in endpoints():
            if endpoint == "1p19q" and site == "upenn-gbm":
                continue
            missing = endpoint == "tert" and site == "cuimc"
            for encoder in (*ENCODERS, *REFERENCES):
                value = np.nan if missing else float(np.clip(rng.normal(0.62, 0.1), 0.3, 0.93))
                probe.append(row(encoder, site, endpoint, "auc", value, 0.14, n, 3 if missing else n // 3))
            for method in METHODS:
                value = np.nan if missing else rng.normal(0.01, 0.06)
                both = row(f"{method}-dro-s0", site, endpoint, "auc_difference", value, 0.1, n, n // 3)
                p = 0.01 if both["ci_low"] > 0 or both["ci_high"] < 0 else 0.5
                comparison.append({**both, "encoder": f"{method}-dro-s0 minus {method}-base-s0", "p": p})
        for encoder in (*ENCODERS, *REFERENCES):
            survival.append(row(encoder, site, "os", "c_index", rng.normal(0.62, 0.04), 0.09, n, n - 6))
            survival.append(row(encoder, site, "os", "log_rank_p", float(rng.random() ** 3), np.nan, n, n - 6))
            for marker in ("egfr", "tert", "atrx"):
                survival.append(row(encoder, site, marker, "log_rank_p", 0.0004, np.nan, n, n - 6))
            survival += prognosis(encoder, site, n)
    for encoder in ENCODERS:
        silhouette = row(encoder, "all", "site", "silhouette", rng.normal(0.2, 0.08), 0.06, 90, 0)
        invariance.append({**silhouette, "protocol": "combined"})
        invariance += audit(encoder)
    tables = {"probe": probe, "survival": survival, "invariance": invariance, "comparison": comparison}
    tables["clean"] = [{**row, "patients": patients} for row in probe for patients in ("all", "clean")]
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def reliability_rows(rng: np.random.Generator) -> pd.DataFrame:
    """Curves, coverage and subgroups of the common markers, all sites together; one subgroup is suppressed."""
    rows = []
    for endpoint in ("mgmt", "idh1", "1p19q"):
        for encoder in (*ENCODERS, *REFERENCES):
            first = row(encoder, "all", endpoint, "", 0.5, 0.1, 90, 30) | {"protocol": "combined"}

            def add(
                metric: str, value: float, at: float, variable: str = "", stratum: str = "", first: dict = first, **more
            ) -> None:
                limits = {"value": value, "ci_low": value - 0.05, "ci_high": value + 0.05}
                place = {"at": at, "variable": variable, "stratum": stratum}
                rows.append({**first, "metric": metric, **limits, **place, **more})

            for at in np.arange(0.05, 1, 0.05):
                add("net_benefit", 0.33 - 0.4 * at + rng.normal(0, 0.01), at)
                add("net_benefit_all", 0.33 - 0.67 * at / (1 - at), at)
            for at in (0.1, 0.3, 0.5, 0.7):
                add("observed_share", float(np.clip(at + rng.normal(0, 0.08), 0, 1)), at)
            for at in (1.0, 0.8, 0.6, 0.5):
                add("balanced_accuracy_retained", 0.75 - 0.2 * at + rng.normal(0, 0.01), at)
            for site in ("", *(f"{site}, " for site in SITES)):
                for label in ("positive", "negative"):
                    variable = "site and class" if site else "class"
                    add("coverage", 0.9 + rng.normal(0, 0.03), 0.9, variable, site + label)
            strata = {"sex": "FM", "age band": ("above 65", "50 to 65", "below 50"), "WHO grade": ("4", "below 4")}
            for variable, names in {**strata, "site": SITES, "vendor": ("GE", "Siemens")}.items():
                for stratum in names:
                    lost = stratum == "below 4"
                    note = {"note": "suppressed: fewer than 10 patients", "n": pd.NA} if lost else {}
                    value = np.nan if lost else float(np.clip(rng.normal(0.65, 0.08), 0.3, 0.95))
                    add("auc", value, np.nan, variable, stratum, **note)
    return pd.DataFrame(rows)


def prognosis(encoder: str, site: str, n: int) -> list[dict]:
    """Rows of Figure 4A's second page; what they say depends on the encoder's name alone."""
    rng = np.random.default_rng(len(encoder) + n)
    found = [
        row(encoder, site, "os", f"auc_{months}m", rng.normal(0.63, 0.04), 0.1, n, n - 6) for months in (12, 18, 24)
    ]
    found.append(row(encoder, site, "os", "ibs_gain", rng.normal(0.05, 0.04), 0.06, n, n - 6))
    for at in (0.2, 0.45, 0.7):
        near = float(np.clip(at + rng.normal(0, 0.08), 0, 1))
        found.append({**row(encoder, site, "os", "observed_risk_12m", near, 0.15, n, n - 6), "at": at})
    for at in (0.1, 0.3, 0.5, 0.7):
        model, everybody = max(0.0, 0.42 - 0.6 * at), 0.45 - 0.55 * at / (1 - at)
        found.append({**row(encoder, site, "os", "net_benefit_12m", model, 0.05, n, n - 6), "at": at})
        found.append({**row(encoder, site, "os", "net_benefit_of_all_12m", everybody, 0.05, n, n - 6), "at": at})
    return found


def audit(encoder: str) -> list[dict]:
    """Site probe with its null in everybody and in glioblastoma, neighbours, robustness and rank."""
    rng = np.random.default_rng(sum(map(ord, encoder)))
    found = []
    for protocol, n in (("combined", 90), ("glioblastoma", 60)):
        null = {"ci_low": 0.24, "ci_high": 0.43}
        rows = [row(encoder, "all", "site", "site_probe_balanced_accuracy", rng.uniform(0.35, 0.9), 0.08, n, 0)]
        rows.append({**row(encoder, "all", "site", "site_probe_null", 0.33, 0.1, n, 0), **null})
        if protocol == "combined":
            rows.append(row(encoder, "all", "site", "same_site_neighbour_excess", rng.uniform(0, 0.3), 0.05, n, 0))
            rows.append(row(encoder, "all", "site", "robustness_index", rng.uniform(0.4, 0.7), 0.08, n, 0))
            rows.append(row(encoder, "all", "site", "effective_rank", rng.uniform(2, 30), np.nan, n, 0))
        found += [{**r, "protocol": protocol} for r in rows]
    return found


def curve(rng: np.random.Generator, site: str, stratum: str, n: int, mean: float) -> pd.DataFrame:
    times = np.sort(rng.exponential(mean, n)).round() + 1
    alive = 1 - np.arange(1, n + 1) / n
    half = 1.96 * np.sqrt(alive * (1 - alive) / n)
    return pd.DataFrame(
        {
            "site": site,
            "stratum": stratum,
            "time": np.r_[0, times],
            "survival": np.r_[1, alive],
            "ci_low": np.r_[1, (alive - half).clip(0)],
            "ci_high": np.r_[1, (alive + half).clip(max=1)],
            "at_risk": np.r_[n, np.arange(n, 0, -1)],
        }
    )


def survival_curves(rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for encoder in ("byol-base-s0", "byol-dro-s0"):
        for site, n in SITES.items():
            parts += [
                curve(rng, site, "risk high", n // 2, 380).assign(encoder=encoder),
                curve(rng, site, "risk low", n - n // 2, 640).assign(encoder=encoder),
            ]
    markers = np.random.default_rng(5)
    carriers = [
        curve(markers, site, f"{marker} {status}", n // 2, mean)
        for marker in ("egfr", "tert", "atrx")
        for site, n in SITES.items()
        for status, mean in (("positive", 350), ("negative", 600))
    ]
    parts += [part.assign(encoder=encoder) for encoder in ("byol-base-s0", "byol-dro-s0") for part in carriers]
    return pd.concat(parts, ignore_index=True)


def coordinates(rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for encoder in ENCODERS:
        for site, n in SITES.items():
            where = rng.normal(0, 3, 2)
            cloud = rng.normal(where, 2.5, (n, 2))
            ids = [f"{site}-{i:03d}" for i in range(n)]
            parts.append(
                pd.DataFrame(
                    {
                        "encoder": encoder,
                        "cohort": site,
                        "patient": ids,
                        "scan": ids,
                        "x": cloud[:, 0],
                        "y": cloud[:, 1],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def explanation() -> tuple[list[dict[str, np.ndarray]], pd.DataFrame]:
    rng = np.random.default_rng(3)
    shape = (48, 64, 48)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.15, 1.15, s) for s in shape], indexing="ij"))
    brain = (grid**2).sum(0) < 1
    maps, tumours, t1c, t2f = [], [], [], []
    for i in range(4):
        centre = np.array([(-0.4, 0.4)[i % 2], (0.1, -0.4)[i // 2], 0.1])[:, None, None, None]
        tumour = (((grid - centre) / 0.25) ** 2).sum(0) < 1
        cam = np.exp(-(((grid - centre - 0.1) / 0.35) ** 2).sum(0))
        picture = (rng.normal(0, 0.4, shape) + 1.5 * tumour) * brain
        maps.append(cam / cam.max())
        tumours.append(tumour[:, :, 24] if i < 3 else np.zeros(shape[:2], bool))
        t1c.append(picture[:, :, 24])
        t2f.append(1.2 * picture[:, :, 24])
    ids = np.array([f"s{i}" for i in range(4)])
    sites = np.array(["ucsf-pdgm", "upenn-gbm", "cuimc", "cuimc"])
    stored = {
        "encoder": np.array("byol-dro-s0"),
        "endpoint": np.array("idh1"),
        "layer": np.array("layer3"),
        "cohort": sites,
        "patient": ids,
        "scan": ids,
        "label": np.array([1.0, 1.0, 0.0, 0.0]),
        "score": np.array([0.97, 0.91, 0.12, 0.04]),
        "status": np.array(["positive", "positive", "negative", "negative"]),
        "map_plane": np.stack(maps)[..., 24].astype(np.float16),
        "against_plane": np.stack([0.4 * maps[0], 0.9 * maps[1][::-1], 0 * maps[0], 0 * maps[0]])[..., 24].astype(
            np.float16
        ),
        "slice": np.full(4, 24),
        "t1c": np.stack(t1c).astype(np.float16),
        "t2f": np.stack(t2f).astype(np.float16),
        "tumour": np.stack(tumours),
    }
    agreement = pd.DataFrame(
        {
            "encoder": "byol-dro-s0",
            "endpoint": "idh1",
            "cohort": sites,
            "scan": ids,
            "mass": [0.42, 0.31, 0.08, np.nan],
            "prior_mass": [0.05, 0.06, 0.04, np.nan],
        }
    )
    return [stored], agreement


def map_checks(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    alike = [*(f"cascade_{stage}" for stage in ("layer4", "layer3", "layer2", "layer1", "stem")), "permuted_labels"]
    for encoder in ENCODERS:
        for kind in ("gradcam", "occlusion", "centre_prior", "untrained", "random"):
            for metric, middle in (("mass_in_tumour", 0.2), ("deletion_fall", 0.5)):
                if (kind, metric) not in (("random", "mass_in_tumour"), ("untrained", "deletion_fall")):
                    value = middle * (2 if kind == "gradcam" else 1) + rng.normal(0, 0.03)
                    rows.append({**row(encoder, "all", "idh1", metric, value, 0.08, 16, 0), "protocol": kind})
        for place, metric in enumerate((*alike, "simple_probe")):
            value = 0.8 if metric == "simple_probe" else 0.9 / (place + 1)
            rows.append({**row(encoder, "all", "idh1", metric, value, 0.1, 5, 0), "protocol": "gradcam"})
    return pd.DataFrame(rows)


def stress_rows(rng: np.random.Generator) -> pd.DataFrame:
    """Drops that grow with severity and with every sequence that is missing."""
    sequences = ("t1n", "t1c", "t2w", "t2f")
    kept = ["+".join(some) for size in (3, 2, 1) for some in combinations(sequences, size)]
    levels = [(kind, str(level), 0.04 * level) for kind in ("noise", "bias", "blur", "gamma") for level in (1, 2, 3)]
    levels += [("missing", each, 0.05 * (3 - each.count("+"))) for each in kept]
    rows = []
    for encoder in ENCODERS:
        for site in ("all", *SITES):
            for endpoint in ("idh1", "mgmt"):
                for shift, level, drop in levels:
                    first = row(encoder, site, endpoint, "auc_drop", drop + rng.normal(0, 0.01), 0.05, 40, 15)
                    rows.append({**first, "protocol": "combined", "shift": shift, "level": level})
    return pd.DataFrame(rows)


def planted_tables() -> Tables:
    rng = np.random.default_rng(0)
    maps, agreement = explanation()
    return Tables(
        **cohort_tables(rng),
        **training_tables(rng),
        **evaluation_tables(rng),
        curves=survival_curves(rng),
        reliability=reliability_rows(np.random.default_rng(7)),
        stress=stress_rows(np.random.default_rng(8)),
        coordinates=coordinates(rng),
        maps=maps,
        agreement=agreement,
        checks=map_checks(rng),
        audit={"stamp": STAMP, "overlaps": []},
    )


planted_once = cache(planted_tables)


def planted_study() -> Tables:
    """The same study in every test, each with its own copy to change."""
    return copy.deepcopy(planted_once())


def without_rows(tables: Tables) -> Tables:
    """The same columns and no row, as stages write them that found nothing to do."""
    frames = {field.name: getattr(tables, field.name) for field in dataclasses.fields(tables)}
    empty = {name: frame.iloc[:0] for name, frame in frames.items() if isinstance(frame, pd.DataFrame)}
    nobody = {key: np.array(str(tables.maps[0][key])) for key in ("encoder", "endpoint", "layer")}
    return Tables(**empty, maps=[{**nobody, "patient": np.array([], dtype=str)}], audit=tables.audit)
