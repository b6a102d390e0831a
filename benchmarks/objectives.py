"""Do the objectives differ, and do the methods beat an untrained network? Five objectives x four methods x ten seeds.

    python benchmarks/objectives.py study OUT           # render the phantom study's volumes
    python benchmarks/objectives.py train OUT           # 200 encoders and 10 untrained ones; continues where it stopped
    python benchmarks/objectives.py table OUT           # the table of what is there, as in objectives.md

The volumes are the phantom's, as many of each cohort to pretrain on as the paper has, divided by 44, and nine times its test
patients, drawn straight on one 4 mm grid: sites differ in scanner, protocol, field strength and noise, and no registration, N4
or brain mask stands between (those have benchmarks of their own). Labels are the true ones, known at all three test sites.
Training and evaluation are the package's own.

Each encoder: AUC of the leave-one-site-out probe of every endpoint at every site, silhouette by site, balanced accuracy of the
site probe, effective rank. Intervals are bootstraps over patients (within site, the same draws for every encoder) and seeds,
so differences are paired.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from objectives_table import CONTROL, TEST, markdown, summary, training_ends
from sklearn.metrics import silhouette_samples

from neurorad import RESOURCES, volumes
from neurorad.embedding.embed import embed
from neurorad.encoder import initialised, load_encoder
from neurorad.encoder_names import METHODS, OBJECTIVES, encoder_parts
from neurorad.endpoints import binary, endpoints
from neurorad.evaluation import metrics
from neurorad.evaluation.classifier import fit_regressor
from neurorad.evaluation.features import Embeddings, feature_columns
from neurorad.evaluation.folds import analysis_set, cells, check_labels, fold_table
from neurorad.evaluation.invariance import COMPONENTS, collapse_numbers, mean_recall, site_scores
from neurorad.evaluation.linear import project
from neurorad.evaluation.probe import cross_validate, not_estimable
from neurorad.files import read_table, write_table, write_text
from neurorad.phantom.plan import ENDPOINTS, LATENTS, plan, read_recipe
from neurorad.phantom.render import Study, on_common_grid
from neurorad.pretraining.devices import make_fabric
from neurorad.pretraining.engine import Run, train
from neurorad.pretraining.objectives import read_reference
from neurorad.pretraining.outputs import write_outputs
from neurorad.pretraining.presets import read_preset
from neurorad.pretraining.scans import Scans, read_scans
from neurorad.problems import InputError
from neurorad.seeds import generator

SCANS = {
    "brats-gli-pre": 1443,
    "brats-gli-post": 1809,
    "brats-men": 1141,
    "brats-met": 1475,
    "brats-ped": 351,
    "lumiere": 599,
    "mu-glioma-post": 596,
}
"""Of each cohort in the paper's supplementary table 1."""
WINDOW = (slice(11, 47), slice(9, 57), slice(0, 36))
"""The voxels of the 4 mm SRI24 grid that hold every brain."""
CONTRACT = {"spacing": [4.0] * 3, "normalisation": "z-score in brain"}


def render(out: Path, share: float, tested_scale: float) -> None:
    """Volumes of every scan (pretraining) and every first time point (test), the manifest and the patients' true labels.

    The test patients are drawn apart, so that however many they are, the scans to pretrain on stay the same.
    """
    recipe = {**read_recipe(RESOURCES / "phantom.yaml"), "faults": []}
    counts = {cohort: round(share * number) for cohort, number in SCANS.items()}
    # As many patients as scans are enough, whatever their sessions.
    sized = {cohort: {**recipe["cohorts"][cohort], "patients": number} for cohort, number in counts.items()}
    shown = Study({**recipe, "cohorts": sized}, 0, 4.0, plan({**recipe, "cohorts": sized}, 0, 1))
    tested = Study(recipe, 1, 4.0, plan(recipe, 1, tested_scale))
    scans = pd.concat([rows.head(counts[cohort]) for cohort, rows in shown.plan.scans.groupby("cohort", sort=False)])
    first = tested.plan.scans[tested.plan.scans["days"] == 0]
    todo = [(shown, scan) for scan in scans.to_dict("records")]
    todo += [(tested, scan) for scan in first[first["cohort"].isin(TEST)].to_dict("records")]
    rows = []
    for study, scan in todo:
        path = out / "volumes" / scan["cohort"] / f"{scan['scan'].replace('/', '_')}.b2nd"
        if path.is_file():
            digest = volumes.load_card(path)["sha256"]
        else:
            digest = volumes.save(path, voxels_of(study, scan), {"preprocessing": CONTRACT})
        kept = {key: scan[key] for key in ("cohort", "patient", "session", "scan")}
        rows.append({**kept, "volume": str(path), "sha256": digest})
    table = pd.DataFrame(rows).assign(status="ok", group=lambda t: t["cohort"])
    test = table["cohort"].isin(TEST)
    write_table(out / "volumes.tsv", table[test])
    write_table(out / "manifest.tsv", table.loc[~test, ["cohort", "scan", "patient", "group", "volume", "sha256"]])
    patients = tested.plan.patients
    latents = [f"latent_{name}" for name in LATENTS]
    columns = ["cohort", "patient", *ENDPOINTS, "diagnosis", "os_days", "event", *latents]
    write_table(out / "patients.tsv", patients.loc[patients["cohort"].isin(TEST), columns])


def voxels_of(study: Study, scan: dict) -> np.ndarray:
    """`[4, 36, 48, 36]`, z-scored in the brain, with most of the receive field divided out, as N4 would."""
    images = on_common_grid(study, {**scan, "grid": "sri24"}, head=False)
    # The release stores LPS; volumes are RAS.
    brain = images.brain[WINDOW][::-1, ::-1]
    voxels = np.stack([images.corrected[name][WINDOW][::-1, ::-1] for name in volumes.SEQUENCES]).astype(np.float32)
    values = voxels[:, brain]
    return (voxels - values.mean(1)[:, None, None, None]) / values.std(1)[:, None, None, None] * brain


def write_preset(out: Path, steps: int, eta: float) -> Path:
    """The demo preset, smaller and longer: what a core trains in seconds."""
    preset = yaml.safe_load((RESOURCES / "presets.yaml").read_text(encoding="utf-8"))["demo"]
    preset["encoder"] |= {"width": 8}
    preset["training"] |= {
        "steps": steps,
        "batch_size": 14,
        "learning_rate": 2.0e-3,
        "sampling": "by_objective",
        "log_every": 10,
    }
    # The memory is the whole run; eta x memory is that of `modern`, where eta is 0.1.
    preset["dro"] |= {"eta": eta, "memory": 100.0}
    whole = {"size": 16, "scale": [0.4, 0.7]}
    for method in ("byol", "mae", "moco"):
        preset[method]["crop"] = whole
    preset["dino"] |= {"global_crop": whole, "local_crop": {"size": 8, "scale": [0.2, 0.4]}}
    preset["mae"] |= {"block": 4}
    path = out / "presets.yaml"
    write_text(path, yaml.safe_dump({"table": preset}))
    return path


def encoder_names(seeds: list[int], methods: list[str], objectives: list[str]) -> list[str]:
    """The first seed of everything comes first, so that a run cut short leaves a whole table of fewer seeds."""
    return [
        name
        for seed in seeds
        for name in (f"random-s{seed}", *(f"{m}-{o}-s{seed}" for o in objectives for m in methods))
    ]


def train_all(out: Path, names: list[str], steps: int, eta: float) -> None:
    presets, scans = write_preset(out, steps, eta), read_scans(out / "manifest.tsv")
    tested, folds = read_table(out / "volumes.tsv"), drawn_folds(out)
    for name in names:
        result = out / "results" / f"{name}.parquet"
        if result.is_file():
            continue
        began, note = time.process_time(), ""
        try:
            encoder = trained(out, presets, scans, name)
        except InputError as problem:
            write_table(result, pd.DataFrame([{"encoder": name, "metric": "stopped", "note": str(problem)}]))
            print(f"{name}: {problem}", file=sys.stderr, flush=True)
            continue
        minutes = time.process_time() - began
        table = embed(encoder, tested, scans.preprocessing, torch.device("cpu"), batch_size=16)
        rows, predictions = evaluated(table, folds, name)
        write_table(out / "results" / f"{name}.latents.parquet", latents_found(table, out))
        rows.append({"metric": "cpu_seconds", "value": minutes})
        write_table(out / "results" / f"{name}.predictions.parquet", predictions)
        write_table(result, pd.DataFrame(rows).assign(encoder=name, note=note))
        mean = predictions_mean(predictions)
        print(
            f"{name}: mean AUC {mean:.3f}, { ({r['metric']: round(r['value'], 3) for r in rows}) }, trained in {minutes:.0f} CPU s, all {time.process_time() - began:.0f}",
            flush=True,
        )


def trained(out: Path, presets: Path, scans: Scans, name: str) -> torch.nn.Module:
    method, objective, seed = encoder_parts(name)
    if method == "random":
        return initialised(read_preset(presets, "table", "byol").encoder, seed)
    preset, folder = read_preset(presets, "table", method), out / "encoders" / name
    if (folder / "encoder.safetensors").is_file():
        return load_encoder(folder)[0]
    reference = None
    if objective == "excess":
        base = out / "encoders" / f"{method}-base-s{seed}"
        reference = read_reference(base, method, seed, preset.values, scans.manifest_sha256)
    run = Run(method, objective, seed, preset, reference)
    folder.mkdir(parents=True, exist_ok=True)
    progress = train(run, scans, folder, make_fabric(torch.device("cpu")), say=lambda text: None)
    write_outputs(run, scans, progress, folder)
    return load_encoder(folder)[0]


def drawn_folds(out: Path) -> pd.DataFrame:
    patients = check_labels(read_table(out / "patients.tsv"), endpoints())
    folds = fold_table(analysis_set(read_table(out / "volumes.tsv")), patients, endpoints(), repeats=1)
    return folds[
        folds["protocol"].eq("leave_one_site_out") & folds["endpoint"].isin(endpoints()) | folds["endpoint"].eq("site")
    ]


def evaluated(table: pd.DataFrame, folds: pd.DataFrame, name: str) -> tuple[list[dict], pd.DataFrame]:
    """Rows of the whole embedding, and one row a tested patient of each endpoint and site."""
    known, embeddings, parts, rows = endpoints(), Embeddings([table], name), [], []
    for whole in cells(folds):
        cell, x, _ = embeddings.cover(whole)
        if whole.endpoint == "site":
            site = cell.patients["cohort"].to_numpy(str)
            z = project(x, COMPONENTS)(x)
            truth = np.unique(site, return_inverse=True)[1]
            labels = np.stack([(truth == code).astype(float) for code in range(truth.max() + 1)])
            guess = site_scores(x, labels, cell.assignments()).argmax(axis=0)
            found = {"silhouette": silhouette_samples(z, site).mean(), "site_probe": float(mean_recall(truth, guess))}
            rows += [{"metric": key, "value": value} for key, value in {**found, **collapse_numbers(x)}.items()]
            continue
        endpoint = known[cell.endpoint]
        if not_estimable(cell, endpoint):
            continue
        scores = cross_validate(cell, x, endpoint, seed=0)["score"][0]
        who = cell.tested
        truth = binary(who["label"], endpoint).to_numpy()
        parts.append(
            pd.DataFrame(
                {
                    "endpoint": cell.endpoint,
                    "cohort": who["cohort"],
                    "patient": who["patient"],
                    "truth": truth,
                    "score": scores,
                }
            )
        )
    return rows, pd.concat(parts, ignore_index=True)


def latents_found(table: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Each planted lesion latent (`truth`) of every tested patient, and its ridge regression from the other two sites
    (`score`): what the labels were drawn from, so less noisy than they are."""
    joined = table.merge(read_table(out / "patients.tsv"), on=["cohort", "patient"], validate="one_to_one")
    x, site = joined[feature_columns(joined)].to_numpy(np.float64), joined["cohort"].to_numpy(str)
    found = []
    for name in LATENTS:
        value = joined[f"latent_{name}"].to_numpy()
        for held in TEST:
            test = site == held
            projection, coefficients, _ = fit_regressor(x[~test], value[~test], site[~test], generator(0, name, held))
            who = joined.loc[test, ["cohort", "patient"]]
            found.append(who.assign(endpoint=name, truth=value[test], score=projection(x[test]) @ coefficients))
    return pd.concat(found, ignore_index=True)


def predictions_mean(predictions: pd.DataFrame) -> float:
    kept = predictions[predictions["endpoint"] != CONTROL]
    return float(
        np.mean(
            [metrics.auc(p["truth"].to_numpy(), p["score"].to_numpy()) for _, p in kept.groupby(["endpoint", "cohort"])]
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["study", "train", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--share", type=float, default=168 / sum(SCANS.values()), help="of the paper's scans to pretrain on"
    )
    parser.add_argument("--tested-scale", type=float, default=9.0, help="of the test sites")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eta", type=float, default=0.1, help="step size of the groups' weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "study":
        render(args.out, args.share, args.tested_scale)
    elif args.what == "train":
        train_all(args.out, encoder_names(args.seeds, args.methods, args.objectives), args.steps, args.eta)
    else:
        arms, by_endpoint = summary(args.out)
        print(markdown(arms), markdown(training_ends(args.out)), markdown(by_endpoint.round(2), index=True), sep="\n\n")


if __name__ == "__main__":
    main()
