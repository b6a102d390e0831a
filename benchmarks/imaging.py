"""Raw scan to atlas, measured against brainles-preprocessing (the BraTS pipeline in Python) on the same scan, atlas and threads.

`pip install brainles-preprocessing==0.6.14`, then
`python benchmarks/imaging.py SCAN_FOLDER ATLAS.nii.gz [--repeats 3] [--stripped FOLDER] > benchmarks/imaging.md`

The folder holds one raw patient, `*_T1`, `*_T1ce`, `*_T2` and `*_FLAIR.nii.gz`. Both pipelines register the three others to
T1ce by ANTs on one thread, and T1ce to the atlas, and write images of 1 mm. The brain mask is made before and its time left
out on both sides; ours does N4 twice besides (theirs has it off, its default) and stores a normalised volume. Runs
alternate; besides wall time the processor's time is given, which other work on the machine hardly changes.

Before that known transforms are planted in a phantom (four contrasts of the atlas' brain, with noise and bias): each pipeline
gets three sequences turned and moved on slices of 4 mm, and its transforms are compared with the planted ones. With `--stripped`
the same is done to a patient of BraTS 2021, whose sequences others have registered to each other as well as they could.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

THREADS = "1"
for variable in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "BLOSC_NTHREADS"):
    os.environ[variable] = THREADS

import ants  # noqa: E402
import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from neurorad.files import sha256  # noqa: E402
from neurorad.imaging import volume as pipeline  # noqa: E402
from neurorad.imaging.brain import brain_mask  # noqa: E402
from neurorad.imaging.quality import displacement, similarity  # noqa: E402
from neurorad.imaging.registration import grid, motion, resample  # noqa: E402
from neurorad.imaging.scan import Image, read_image  # noqa: E402
from neurorad.volumes import SEQUENCES, save  # noqa: E402

SPELLED = {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}
MOVING = ("t1n", "t2w", "t2f")
SETTINGS = {"spacing": 1, "shape": [160, 192, 160], "n4": True, "brain_mask": {"method": "deepbet"}}
PLANTED = {"t1n": ((5, -4, 3), (6, -3, 4)), "t2w": ((-6, 2, 5), (-4, 5, 7)), "t2f": ((3, 6, -4), (2, -7, -5))}
"""Rotation in degrees about x, y, z and shift in mm, about the middle of the image."""

Transforms = dict[str, np.ndarray]
Seconds = np.ndarray


def clock() -> Seconds:
    """Wall and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(files: dict[str, Path], atlas: Path, mask: np.ndarray, folder: Path) -> tuple[Seconds, Transforms]:
    """Seconds of wall and processor, and each sequence's [4, 4] from t1c RAS mm to its own; `atlas`: from atlas RAS mm to t1c's."""
    begin = clock()
    own = pipeline.Atlas.load(1, SETTINGS["shape"], {"file": str(atlas), "sha256": sha256(atlas)})
    pipeline.brain_mask = lambda *_: mask
    states = ("skull", "defaced")
    made = pipeline.make_volume(files, None, states, SETTINGS, own, folder)
    save(folder / "volume.b2nd", made.voxels, {})
    seconds = clock() - begin
    to_own = {name: np.array(matrix) for name, matrix in made.transforms.items()}
    to_t1c = to_own["t1c"]
    return seconds, {"atlas": to_t1c, **{name: to_own[name] @ np.linalg.inv(to_t1c) for name in MOVING}}


def theirs(files: dict[str, Path], atlas: Path, folder: Path) -> tuple[Seconds, Transforms]:
    from brainles_preprocessing.modality import CenterModality, Modality
    from brainles_preprocessing.preprocessor import AtlasCentricPreprocessor
    from brainles_preprocessing.registration import ANTsRegistrator

    begin = clock()
    outputs = {name: folder / f"{name}.nii.gz" for name in SEQUENCES}
    # Atlas correction, a second registration to the atlas, is on by default; off here, as ours has none.
    off = {"atlas_correction": False}
    AtlasCentricPreprocessor(
        center_modality=CenterModality("t1c", files["t1c"], raw_skull_output_path=outputs["t1c"], **off),
        moving_modalities=[Modality(n, files[n], raw_skull_output_path=outputs[n], **off) for n in MOVING],
        registrator=ANTsRegistrator(),
        atlas_image_path=atlas,
        temp_folder=folder / "temporary",
        use_gpu=False,
    ).run(log_file=folder / "log", save_dir_transformations=folder / "transforms")
    seconds = clock() - begin
    where = folder / "transforms"
    found = {name: itk_matrix(next((where / name).glob("*_co__*.mat"))) for name in MOVING}
    return seconds, {"atlas": itk_matrix(next((where / "t1c").glob("*_atlas__*.mat"))), **found}


def itk_matrix(path: Path) -> np.ndarray:
    """[4, 4] in RAS mm of an ITK affine transform, from fixed to moving."""
    transform = ants.read_transform(str(path))
    linear, centre = transform.parameters[:9].reshape(3, 3), transform.fixed_parameters
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, transform.parameters[9:] + centre - linear @ centre
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix @ flip


def alignment(files: dict[str, Path], atlas: Path, mask: np.ndarray, transforms: Transforms) -> dict[str, float]:
    """Normalised mutual information inside the brain: of each sequence with t1c on t1c's grid, of t1c with the atlas."""
    images = {name: read_image(files[name], name) for name in SEQUENCES}
    t1c, template = images["t1c"], read_image(atlas, "atlas")
    found = {}
    for name in MOVING:
        moved = resample(images[name], t1c, transforms[name], nearest=True).voxels
        found[name] = similarity(t1c.voxels[mask], moved[mask])
    stripped = Image(np.where(mask, t1c.voxels, 0), t1c.affine)
    moved = resample(stripped, template, transforms["atlas"], nearest=True).voxels
    found["atlas"] = similarity(moved[template.voxels > 0], template.voxels[template.voxels > 0])
    return found


def phantom(atlas: Path) -> dict[str, Image]:
    """The atlas' brain as four sequences: other contrasts of one anatomy, with a bias field and noise of 3 %."""
    brain = read_image(atlas, "atlas")
    inside = brain.voxels > 0
    scaled = np.where(inside, brain.voxels / np.percentile(brain.voxels[inside], 99), 0)
    contrasts = {"t1n": scaled**0.7, "t1c": scaled, "t2w": 1.3 - scaled, "t2f": np.abs(scaled - 0.35) + 0.2}
    random = np.random.default_rng(0)
    made = {}
    for position, (name, voxels) in enumerate(contrasts.items()):
        slope = np.linspace(0.8, 1.2, inside.shape[position % 3])
        field = np.expand_dims(slope, [axis for axis in range(3) if axis != position % 3])
        noisy = 1000 * np.abs(voxels * field + random.normal(0, 0.03, inside.shape))
        made[name] = Image(np.where(inside, noisy, 0).astype(np.float32), brain.affine)
    return made


def patient(stripped: Path) -> dict[str, Image]:
    spelled = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
    return {name: read_image(next(stripped.glob(f"*_{spelled[name]}.nii.gz")), name) for name in SEQUENCES}


def plant(images: dict[str, Image], folder: Path) -> tuple[dict[str, Path], Transforms]:
    """Four aligned sequences at 2 mm, three of them turned, moved and on slices of 4 mm."""
    whole = images["t1c"]
    centre = whole.affine[:3, :3] @ (np.array(whole.voxels.shape) / 2) + whole.affine[:3, 3]
    t1c = grid(2, (120, 120, 78), centre)
    thick = Image(np.zeros((120, 120, 39), np.float32), t1c.affine @ np.diag([1, 1, 2, 1]))
    files, truth = {}, {}
    for name, image in images.items():
        matrix = np.eye(4)
        if name in PLANTED:
            angles, shift = PLANTED[name]
            matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
            matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
            truth[name] = np.linalg.inv(matrix)
        moved = resample(image, thick if name in PLANTED else t1c, matrix)
        files[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(moved.voxels, moved.affine), files[name])
    return files, truth


def errors(found: Transforms, truth: Transforms, centre: np.ndarray) -> dict[str, tuple[float, float]]:
    """RMS distance over a head in mm, and angle in degrees, between found and planted."""
    left = {name: found[name] @ np.linalg.inv(truth[name]) for name in MOVING}
    return {name: (displacement(matrix, centre), motion(matrix)[0]) for name, matrix in left.items()}


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="0: planted transforms alone")
    parser.add_argument("--stripped", type=Path)
    args = parser.parse_args()
    files = {name: next(args.scan.glob(f"*_{spelled}.nii.gz")) for name, spelled in SPELLED.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        atlas = folder / "atlas.nii.gz"
        source = nib.load(args.atlas)
        nib.save(nib.Nifti1Image(np.squeeze(source.get_fdata(dtype=np.float32)), source.affine), atlas)
        say("| planted transforms: error in mm (RMS over a head) and degrees | pipeline | " + " | ".join(MOVING) + " |")
        say("|---|---|" + "---|" * 3)
        recovered("phantom", phantom(atlas), folder / "phantom")
        if args.stripped:
            recovered("patient", patient(args.stripped), folder / "patient")
        if not args.repeats:
            return
        say("")
        t1c = read_image(files["t1c"], "t1c")
        mask = brain_mask(t1c, "deepbet", {}, folder, 1, "cpu")
        seconds: dict[str, list[Seconds]] = {"neurorad": [], "brainles-preprocessing": []}
        found: dict[str, Transforms] = {}
        for run in range(args.repeats):
            for side, taken in seconds.items():
                room = folder / f"{side}-{run}"
                room.mkdir()
                work = ours(files, atlas, mask, room) if side == "neurorad" else theirs(files, atlas, room)
                taken.append(work[0])
                found.setdefault(side, work[1])
                print(f"{side} run {run}: {work[0].round(1)} s", file=sys.stderr)
        say("| pipeline | wall s | processor s | " + " | ".join([*MOVING, "atlas"]) + " |")
        say("|---|---|---|" + "---|" * 4)
        for side, taken in seconds.items():
            alike = alignment(files, atlas, mask, found[side])
            wall, processor = (", ".join(f"{t:.0f}" for t in column) for column in np.transpose(taken))
            cells = " | ".join(f"{alike[name]:.4f}" for name in [*MOVING, "atlas"])
            say(f"| {side} | {wall} | {processor} | {cells} |")
        ratio = np.median(seconds["neurorad"], axis=0) / np.median(seconds["brainles-preprocessing"], axis=0)
        say(
            f"\nOurs takes {ratio[0]:.2f} of their wall and {ratio[1]:.2f} of their processor time ({args.repeats} runs, medians)."
        )
        say(
            "Last columns: normalised mutual information with t1c, and of t1c with the atlas, after registration; higher is"
        )
        say("better, 1 is none.")


def recovered(what: str, images: dict[str, Image], room: Path) -> None:
    from brainles_preprocessing.registration import ANTsRegistrator

    room.mkdir()
    files, truth = plant(images, room)
    t1c = read_image(files["t1c"], "t1c")
    centre = t1c.affine[:3, :3] @ (np.array(t1c.voxels.shape) / 2) + t1c.affine[:3, 3]
    # The step that brings sequences together, as each pipeline calls it.
    found = {"neurorad": pipeline._to_t1c({n: read_image(files[n], n) for n in SEQUENCES}, t1c.voxels > 0, room, {})}
    found["brainles-preprocessing"] = {}
    for name in MOVING:
        matrix = room / f"{name}.mat"
        ANTsRegistrator().register(files["t1c"], files[name], room / "out.nii.gz", matrix, room / "log")
        found["brainles-preprocessing"][name] = itk_matrix(matrix)
    for side, transforms in found.items():
        wrong = errors(transforms, truth, centre)
        cells = " | ".join(f"{wrong[n][0]:.2f} mm, {wrong[n][1]:.2f}°" for n in MOVING)
        say(f"| {what} | {side} | {cells} |")


if __name__ == "__main__":
    main()
