"""Time of an inventory: `python benchmarks/inventory.py [--scans 8000] [--folder WHERE]`.

Makes a release of BraTS names (four sequences a scan, each a small but true NIfTI header and voxels, gzipped) in a
temporary folder, lists it, and prints a table. Neither the images' voxels nor their number of bytes matters to the
inventory, which reads the first 4 KB of a file.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from neurorad.cohorts.inventory import files_below, list_scans, listing_digest
from neurorad.cohorts.releases import RELEASES
from neurorad.volumes import SEQUENCES


def make_release(folder: Path, scans: int) -> None:
    """`scans` folders in BraTS-GLI names below `folder`, on the SRI24 field of view at 24 mm."""
    image = nib.Nifti1Image(np.zeros((10, 10, 7), np.int16), np.diag([-24.0, -24.0, 24.0, 1.0]))
    model = folder / "model.nii.gz"
    nib.save(image, model)
    content = model.read_bytes()
    model.unlink()
    for number in range(scans):
        name = f"BraTS-GLI-{number:05d}-000"
        (folder / name).mkdir()
        for sequence in SEQUENCES:
            (folder / name / f"{name}-{sequence}.nii.gz").write_bytes(content)


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=8000)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes, to measure another disk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_release(folder, args.scans)
        release = RELEASES["brats-gli-pre"]
        seconds = {
            "names only": timed(lambda: sorted(files_below(folder))),
            "names and sizes (what a run compares)": timed(lambda: listing_digest(folder)),
            "inventory (names and headers)": timed(lambda: list_scans("mine", folder, release)),
        }
        scans, unknown = list_scans("mine", folder, release)
        if len(scans) != args.scans or unknown or scans["problem"].any():
            raise SystemExit("the inventory of the benchmark's own release is wrong")
    print(f"{args.scans} scans, {4 * args.scans} files, {os.cpu_count()} cores")
    for step, taken in seconds.items():
        print(f"{step:40s}{taken:8.2f} s{1000 * taken / args.scans:8.2f} ms a scan")


if __name__ == "__main__":
    main()
