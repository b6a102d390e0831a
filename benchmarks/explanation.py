"""Cost of maps: one forward pass of a batch against Grad-CAM and Grad-CAM++ of one and of three endpoints.

CPU seconds of one thread, interleaved, median of several rounds. Example: python benchmarks/explanation.py
"""

import argparse
import statistics
import time

import torch

from neurorad.encoder import Architecture, initialised
from neurorad.explanation.gradcam import gradcam, gradcam_plus_plus, look

GRID = (48, 64, 48)
ENCODERS = {
    "resnet10, width 16 (demo)": Architecture("resnet10", 16, 2, False, "group"),
    "resnet50, width 16": Architecture("resnet50", 16, 2, False, "group"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    volumes = torch.randn(args.batch, 4, *GRID, generator=torch.Generator().manual_seed(0))
    print("| encoder | layer | forward, s a scan | 1 endpoint, times | 3 endpoints, times | a map of 3, times |")
    print("|---|---|---|---|---|---|")
    for name, architecture in ENCODERS.items():
        encoder = initialised(architecture, 0).eval()
        for layer in ("layer2", "layer3", "layer4"):
            spent: dict[int, list[float]] = {0: [], 1: [], 3: []}
            for _ in range(args.rounds):
                for endpoints, kept in spent.items():
                    begin = time.process_time()
                    if endpoints:
                        weights = torch.ones(endpoints, encoder.dimension)
                        seen = look(encoder, getattr(encoder.network, layer), weights, volumes)
                        gradcam(seen), gradcam_plus_plus(seen)
                    else:
                        with torch.no_grad():
                            encoder(volumes)
                    kept.append((time.process_time() - begin) / args.batch)
            forward, one, three = (statistics.median(spent[number]) for number in (0, 1, 3))
            ratios = f"{one / forward:.2f} | {three / forward:.2f} | {three / forward / 3:.2f}"
            print(f"| {name} | {layer} | {forward:.4f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
