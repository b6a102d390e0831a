"""One scan of the plan as voxels: tissue fractions, signals, receive field, slice profile, noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter1d

from neurorad.phantom import anatomy, lesion
from neurorad.phantom.grids import SRI24_TO_MNI, Grid, atlas_grid, native_grid, rigid
from neurorad.phantom.plan import LATENTS, Plan
from neurorad.phantom.signal import TISSUES, receive_field, rician, tissue_signals
from neurorad.seeds import generator
from neurorad.volumes import SEQUENCES

HEAD_CENTRE = np.array([0.0, -18.0, 8.0])
_HEAD_LABELS = ("air", "muscle", "csf", "bone", "marrow", "fat", "eye")


@dataclass(frozen=True)
class Study:
    """What every job of the study is handed."""

    recipe: dict[str, Any]
    seed: int
    spacing: float
    plan: Plan

    def patient(self, scan: dict[str, Any]) -> dict[str, Any]:
        """The row of the plan of the scan's patient."""
        rows = self.plan.patients
        return rows[(rows["cohort"] == scan["cohort"]) & (rows["patient"] == scan["patient"])].iloc[0].to_dict()


@dataclass(frozen=True)
class Tissue:
    """Tissue of one scan on one grid.

    Attributes:
        grid: where. box: slices of the grid that hold the brain.
        fractions: float32 [9, *box] in `TISSUES` order, sum = share of the voxel that is brain.
        head: uint8 index into `_HEAD_LABELS`, whole grid; None if there is no head around the brain.
    """

    grid: Grid
    box: tuple[slice, slice, slice]
    fractions: np.ndarray
    head: np.ndarray | None

    @property
    def brain(self) -> np.ndarray:
        """Share of each voxel of the grid that is brain, float32."""
        whole = np.zeros(self.grid.shape, np.float32)
        whole[self.box] = self.fractions.sum(0)
        return whole


def scanner_of(study: Study, scan: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and recipe entry of the scanner; a person keeps it over time points and ids."""
    cohort = scan["person"].split("/")[0]
    names = study.recipe["cohorts"][cohort]["scanners"]
    name = names[int(generator(study.seed, "scanner", scan["person"]).integers(len(names)))]
    return name, study.recipe["scanners"][name]


def protocol_of(study: Study, scan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sequences' parameters as run: TR, TE and TI within 4 % of the protocol, whole ms."""
    rng = generator(study.seed, "protocol", scan["scan"])
    protocol = study.recipe["protocols"][scanner_of(study, scan)[1]["protocol"]]
    run = {}
    for sequence in SEQUENCES:
        entry = dict(protocol[sequence])
        for key in ("tr", "te", "ti"):
            if key in entry:
                entry[key] = max(1, round(entry[key] * rng.uniform(0.96, 1.04)))
        run[sequence] = entry
    run["t1c"] = {
        **run["t1c"],
        **({k: run["t1n"][k] for k in ("tr", "te")} if protocol["t1c"] == protocol["t1n"] else {}),
    }
    return run


def pose(study: Study, scan: dict[str, Any]) -> np.ndarray:
    """[4, 4]: RAS mm of the scanner (of t1c) to RAS mm of the person; how the head lay."""
    rng = generator(study.seed, "pose", scan["cohort"], scan["scan"])
    return rigid(rng.normal(0, [4, 2, 3]), rng.normal(0, [2, 4, 4]), HEAD_CENTRE)


HEAD_SIZE = 0.91
"""Edge of a real head over that of MNI152, whose brain of 1.9 l is about a third larger than people's 1.4 l."""


def scanner_to_person(study: Study, scan: dict[str, Any]) -> np.ndarray:
    """[4, 4]: RAS mm of the scanner (of t1c) to RAS mm of the person, who is as large as MNI152: pose, then size."""
    size = np.diag([1 / HEAD_SIZE] * 3 + [1.0])
    size[:3, 3] = HEAD_CENTRE * (1 - 1 / HEAD_SIZE)
    return size @ pose(study, scan)


def motion(study: Study, scan: dict[str, Any], sequence: str) -> np.ndarray:
    """[4, 4]: RAS mm of `sequence` to RAS mm of t1c, the head's movement in between; identity for t1c."""
    if sequence == "t1c":
        return np.eye(4)
    rng = generator(study.seed, "motion", scan["cohort"], scan["scan"], sequence)
    return rigid(rng.normal(0, 1.0, 3), rng.normal(0, 1.2, 3), HEAD_CENTRE)


def is_native(scan: dict[str, Any]) -> bool:
    """Whether a scan's release has it as the scanner made it, not in atlas space."""
    return scan["cohort"] == "cuimc" or scan["cohort"] == "lumiere"


def grid_of(study: Study, scan: dict[str, Any]) -> tuple[Grid, np.ndarray]:
    """The release's common grid of a scan, and [4, 4] from its RAS mm to the person's."""
    spacing = study.spacing
    if scan["grid"] == "native":
        middle = HEAD_CENTRE + np.array([0, 0, 2.0])
        return native_grid("axial", 0.86 * spacing, max(1.5, spacing), middle, 0.0), scanner_to_person(study, scan)
    grid = atlas_grid(scan["grid"], spacing)
    to_person = SRI24_TO_MNI if scan["grid"] == "sri24" else np.eye(4)
    if study.recipe["cohorts"][scan["cohort"]].get("pose"):
        rng = generator(study.seed, "pose", scan["cohort"], scan["scan"])
        centre = np.linalg.inv(SRI24_TO_MNI) @ [*HEAD_CENTRE, 1]
        to_person = to_person @ rigid(rng.normal(0, [3, 1, 2]), rng.normal(0, 2, 3), centre[:3])
    return grid, to_person


def tissue(study: Study, scan: dict[str, Any], grid: Grid, to_person: np.ndarray, head: bool) -> Tissue:
    """Tissue fractions of `scan` on `grid`, lesions included.

    Args:
        to_person: [4, 4], RAS mm of the grid to RAS mm of the person.
        head: True adds scalp, skull and neck.
    """
    atlas = anatomy.template(0.35 * study.spacing)
    patient = study.patient(scan)
    someone = anatomy.person(generator(study.seed, "anatomy", scan["person"]), patient["age"])
    box = (slice(None),) * 3 if head else _brain_box(atlas, grid, to_person)
    points = anatomy.to_template(someone, _points(grid, box, to_person))
    shape = tuple(len(range(n)[s]) for n, s in zip(grid.shape, box, strict=True))
    labels = None
    if head:
        labels = _head_labels(points).reshape(shape)
        box = _brain_box(atlas, grid, to_person)
        points = np.ascontiguousarray(points.reshape(3, *shape)[(slice(None), *box)]).reshape(3, -1)
        shape = tuple(len(range(n)[s]) for n, s in zip(grid.shape, box, strict=True))
    fractions = np.zeros((len(TISSUES), points.shape[1]), np.float32)
    for index, fraction_map in enumerate(atlas.maps):
        fractions[index] = anatomy.sample(fraction_map, points, atlas.origin, 1.0) / 255
    _individual(fractions, someone.atrophy)
    latents = {name: patient[f"latent_{name}"] for name in LATENTS}
    disease = study.recipe["diseases"][study.recipe["cohorts"][scan["person"].split("/")[0]]["disease"]]
    found = lesion.lesions(
        latents, disease, scan["growth"], scan["treated"], atlas, generator(study.seed, "lesion", scan["person"])
    )
    lesion.grow(fractions, points, found, disease["place"], max(0.5, study.spacing / 3))
    return Tissue(grid, box, fractions.reshape(-1, *shape), labels)


def _individual(fractions: np.ndarray, atrophy: float) -> None:
    """Sharpen the averaged template's tissue borders and widen the CSF spaces; the sum over tissues is kept."""
    healthy = fractions[:3]
    before = healthy.sum(0)
    healthy *= np.sqrt(healthy)
    healthy[0] *= np.float32(atrophy)
    after = healthy.sum(0)
    healthy *= np.divide(before, after, out=np.zeros_like(before), where=after > 0)


def _points(grid: Grid, box: tuple[slice, slice, slice], to_person: np.ndarray) -> np.ndarray:
    """Person points [3, N] float32 of the voxels in `box`."""
    matrix = to_person @ grid.affine
    axes = [np.arange(n)[s] for n, s in zip(grid.shape, box, strict=True)]
    i, j, k = np.ix_(*axes)
    rows = [matrix[r, 0] * i + matrix[r, 1] * j + matrix[r, 2] * k + matrix[r, 3] for r in range(3)]
    return np.stack([row.astype(np.float32).ravel() for row in rows])


def _brain_box(atlas: anatomy.Template, grid: Grid, to_person: np.ndarray) -> tuple[slice, slice, slice]:
    """Slices of the grid that hold any brain of this size and deformation (at most 14 mm and 10 %)."""
    low, high = atlas.box * 1.0 + atlas.origin
    reach = 16 + 0.1 * np.abs(np.stack([low, high]))
    low, high = low - reach[0], high + reach[1]
    corners = np.array([[x, y, z, 1] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    index = (np.linalg.inv(to_person @ grid.affine) @ corners.T)[:3]
    first = np.clip(np.floor(index.min(1)), 0, grid.shape).astype(int)
    last = np.clip(np.ceil(index.max(1)) + 1, 0, grid.shape).astype(int)
    x, y, z = (slice(a, b) for a, b in zip(first, last, strict=True))
    return x, y, z


def _head_labels(points: np.ndarray) -> np.ndarray:
    """Index into `_HEAD_LABELS` for template points [3, N]: skin, fat, skull with marrow, muscle, eyes, air."""
    around = anatomy.head()
    outside = anatomy.sample(around.outside, points, around.origin, 2.0, beyond=99.0)
    depth = anatomy.sample(around.depth, points, around.origin, 2.0, beyond=-9.0)
    eyes = (np.abs(points[0]) - 32) ** 2 + (points[1] - 62) ** 2 + (points[2] + 40) ** 2 < 12.5**2
    choices = [
        (depth <= 0, "air"),
        (depth < 1.8, "muscle"),
        (outside < 2.2, "csf"),
        ((outside > 3.9) & (outside < 6.3), "marrow"),
        (outside < 8, "bone"),
        (eyes, "eye"),
        (depth < 7, "fat"),
    ]
    codes = [_HEAD_LABELS.index(name) for _, name in choices]
    return np.select([where for where, _ in choices], codes, _HEAD_LABELS.index("muscle")).astype(np.uint8)


def noiseless(study: Study, scan: dict[str, Any], sequence: str, found: Tissue) -> tuple[np.ndarray, float]:
    """Signal of one sequence on the tissue's grid, with its slice profile, and the signal of white matter.

    Without a head the signal in the brain's border voxels is that of the brain alone, and 0 outside.
    """
    patient = study.patient(scan)
    latents = {name: patient[f"latent_{name}"] for name in LATENTS}
    run = protocol_of(study, scan)[sequence]
    field = scanner_of(study, scan)[1]["field"]
    signals = tissue_signals(
        study.recipe, run, field, sequence == "t1c", lesion.uptake(latents), lesion.tumour_t1(latents)
    )
    values = np.array([signals[name] for name in TISSUES], np.float32)
    brain = np.tensordot(values, found.fractions, 1)
    axis = {"axial": 2, "sagittal": 0}[run["plane"]]
    spacing = found.grid.spacing[axis]
    blur = np.sqrt(max(run["slice"] ** 2 - spacing**2, 0)) / 2.355 / spacing
    if found.head is None:
        share = found.fractions.sum(0)
        if blur:
            brain, weight = (gaussian_filter1d(v, blur, axis, truncate=3) for v in (brain, share))
        else:
            weight = share
        image = np.zeros(found.grid.shape, np.float32)
        image[found.box] = np.abs(np.divide(brain, weight, out=np.zeros_like(brain), where=share > 0.5))
    else:
        head = np.array([0.0 if name == "air" else signals[name] for name in _HEAD_LABELS], np.float32)
        image = head[found.head]
        image[found.box] = image[found.box] * (1 - found.fractions.sum(0)) + brain
        image = np.abs(image)
        if blur:
            image = gaussian_filter1d(image, blur, axis, truncate=3)
    return image, abs(signals["wm"])


@dataclass(frozen=True)
class Images:
    """int16 images of one scan by sequence, each on its grid.

    Attributes:
        images: sequence -> voxels. corrected: the same with most of the receive field divided out.
        grids: sequence -> grid. brain: bool, tumour: uint8 in the release's values, both on the grid of t1c.
    """

    images: dict[str, np.ndarray]
    corrected: dict[str, np.ndarray]
    grids: dict[str, Grid]
    brain: np.ndarray
    tumour: np.ndarray


def on_common_grid(study: Study, scan: dict[str, Any], head: bool) -> Images:
    """The scan as its release ships it: four sequences on one grid; with `head`, not stripped."""
    grid, to_person = grid_of(study, scan)
    found = tissue(study, scan, grid, to_person, head)
    brain = found.brain > 0.5
    _, scanner = scanner_of(study, scan)
    field = receive_field(grid.shape, scanner["bias"], generator(study.seed, "field", scan["cohort"], scan["scan"]))
    images, corrected = {}, {}
    for sequence in SEQUENCES:
        rng = generator(study.seed, "noise", scan["cohort"], scan["scan"], sequence)
        image, white = noiseless(study, scan, sequence, found)
        for profile in field:
            image *= profile
        gain = rng.uniform(150, 500) / white
        image = rician(image, white / scanner["snr"], rng) * gain
        images[sequence] = _integer(image, None if head else brain)
        for profile in field:
            image /= profile**0.85
        corrected[sequence] = _integer(image, None if head else brain)
    tumour = np.zeros(grid.shape, np.uint8)
    values = study.recipe["cohorts"][scan["cohort"]]["labels"]
    inner = lesion.mask(found.fractions.reshape(len(TISSUES), -1), values).reshape(found.fractions.shape[1:])
    tumour[found.box] = inner
    tumour *= brain
    return Images(images, corrected, dict.fromkeys(SEQUENCES, grid), brain, tumour)


def on_scanner_grids(study: Study, scan: dict[str, Any], to_anterior: bool) -> Images:
    """The scan as the scanner made it: with skull, each sequence on its own grid, the head moving in between."""
    spacing = study.spacing
    field_of_view = np.array([200.0, 240.0, 190.0])
    x, y, z = (int(np.ceil(length / spacing)) for length in field_of_view)
    shape = (x, y, z)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = HEAD_CENTRE - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    found = tissue(study, scan, Grid(shape, affine), scanner_to_person(study, scan), head=True)
    _, scanner = scanner_of(study, scan)
    field = receive_field(shape, scanner["bias"], generator(study.seed, "field", scan["cohort"], scan["scan"]))
    images, grids = {}, {}
    for sequence in SEQUENCES:
        rng = generator(study.seed, "noise", scan["cohort"], scan["scan"], sequence)
        grids[sequence] = scanner_grid(study, scan, sequence, to_anterior)
        image, white = noiseless(study, scan, sequence, found)
        for profile in field:
            image *= profile
        image = _resampled(image, found.grid, grids[sequence], motion(study, scan, sequence))
        gain = rng.uniform(150, 500) / white
        images[sequence] = _integer(rician(image, white / scanner["snr"], rng) * gain, None)
    grid = grids["t1c"]
    brain = _resampled(found.brain, found.grid, grid, np.eye(4)) > 0.5
    values = study.recipe["cohorts"][scan["cohort"]]["labels"]
    tumour = np.zeros(found.grid.shape, np.float32)
    inner = lesion.mask(found.fractions.reshape(len(TISSUES), -1), values)
    tumour[found.box] = inner.reshape(found.fractions.shape[1:])
    tumour = _resampled(tumour, found.grid, grid, np.eye(4), order=0).astype(np.uint8)
    return Images(images, {}, grids, brain, tumour)


def scanner_grid(study: Study, scan: dict[str, Any], sequence: str, to_anterior: bool = False) -> Grid:
    """The grid of one sequence as prescribed at the scanner: in-plane voxels x spacing, its own tilt and centre."""
    run = protocol_of(study, scan)[sequence]
    rng = generator(study.seed, "prescription", scan["cohort"], scan["scan"], sequence)
    tilt = float(rng.uniform(-12, 4)) if run["plane"] == "axial" else 0.0
    centre = HEAD_CENTRE + rng.uniform(-3, 3, 3)
    thickness = max(run["slice"], study.spacing if run["slice"] < 2 else 0.0)
    return native_grid(run["plane"], run["in_plane"] * study.spacing, thickness, centre, tilt, to_anterior)


def _resampled(image: np.ndarray, source: Grid, target: Grid, transform: np.ndarray, order: int = 1) -> np.ndarray:
    """`image` of `source` on `target`; `transform` leads from target mm to source mm."""
    matrix = np.linalg.inv(source.affine) @ transform @ target.affine
    return affine_transform(image, matrix[:3, :3], matrix[:3, 3], target.shape, order=order)


def _integer(image: np.ndarray, brain: np.ndarray | None) -> np.ndarray:
    """int16 voxels; with `brain`, exactly 0 outside it and at least 1 inside."""
    voxels = np.clip(np.round(image), 0 if brain is None else 1, 32767).astype(np.int16)
    return voxels if brain is None else voxels * brain
