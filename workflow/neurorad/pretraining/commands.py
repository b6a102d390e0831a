"""`neurorad pretrain` and `neurorad cost`."""

import argparse
import math
from contextlib import nullcontext
from pathlib import Path

from neurorad.encoder_names import METHODS, OBJECTIVES
from neurorad.flag_values import natural, positive, seconds
from neurorad.pretraining.arithmetic import PRESETS
from neurorad.problems import InputError

LEAST_EDGE, LARGEST_EDGE = 8, 1024
"""Voxels along an axis; at most those of a head at 0.35 mm in all."""


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    verb = verbs.add_parser(
        "pretrain",
        help="train one encoder by self-supervision, with or without Group-DRO",
        description="Trains one encoder on the scans of a manifest. Stopped by SIGTERM or SIGUSR1, or killed, it "
        "continues from OUT/checkpoint.safetensors when the same command is given again.",
        epilog="example: neurorad pretrain --method byol --objective dro --seed 0 --preset demo\n"
        "         --manifest results/cohorts/pretraining_manifest.tsv --out results/encoders/byol-dro-s0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--method", required=True, choices=METHODS)
    verb.add_argument(
        "--objective",
        required=True,
        choices=OBJECTIVES,
        help="base: mean of the samples' losses; balanced: the same over group-balanced batches; dro: groups weighted by "
        "Group-DRO; excess: by Group-DRO on their loss above the base run's; worst: the worst group of each batch",
    )
    verb.add_argument("--reference", type=Path, metavar="FOLDER", help="excess: the encoder folder of the base run")
    verb.add_argument("--seed", required=True, type=natural)
    verb.add_argument("--preset", required=True, help="name of a preset in the preset file")
    verb.add_argument("--presets", type=Path, default=PRESETS, metavar="YAML", help="preset file [the shipped one]")
    verb.add_argument("--manifest", required=True, type=Path, metavar="TSV")
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.add_argument(
        "--checkpoint-seconds", type=seconds, default=300.0, metavar="S", help="between checkpoints [300]"
    )
    verb.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="CPU threads of all devices together [1]"
    )
    verb.add_argument("--devices", type=positive, default=1, metavar="N", help="GPUs, or processes on the CPU [1]")
    verb.add_argument(
        "--accumulate",
        type=positive,
        default=1,
        metavar="K",
        help="divide every step's samples into K micro-batches, to save memory; the result is the same [1]",
    )
    verb.add_argument(
        "--checkpoint",
        default="last",
        choices=["last", "worst_group"],
        help="which weights become the encoder: the last, or the best by a probe of the worst group, gated by effective "
        "rank; the last are then kept as last.safetensors [last]",
    )
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=pretrain)

    verb = verbs.add_parser(
        "cost",
        help="what pretraining one encoder will take: memory, work, hours",
        description="Counts parameters, memory and FLOP of a preset, and measures ten steps on this "
        "machine with random volumes.",
        epilog="example: neurorad cost --preset modern --method byol",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--preset", required=True)
    verb.add_argument("--method", required=True, choices=METHODS)
    verb.add_argument("--presets", type=Path, default=PRESETS, metavar="YAML", help="preset file [the shipped one]")
    verb.add_argument(
        "--shape", type=positive, nargs=3, default=[160, 192, 160], metavar="N", help="of a volume [160 192 160]"
    )
    verb.add_argument("--seconds", type=seconds, default=120.0, metavar="S", help="longest probe; 0 is none [120]")
    verb.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=cost)


def pretrain(args: argparse.Namespace) -> None:
    """Train one encoder, from its checkpoint where there is one."""
    import torch

    from neurorad.encoder import choose_device
    from neurorad.pretraining.checkpoint import locked
    from neurorad.pretraining.devices import make_fabric
    from neurorad.pretraining.engine import train
    from neurorad.pretraining.objectives import read_reference
    from neurorad.pretraining.outputs import write_outputs
    from neurorad.pretraining.presets import read_preset
    from neurorad.pretraining.runs import Run
    from neurorad.pretraining.sampler import check_sampling
    from neurorad.pretraining.scans import read_scans

    if (args.objective == "excess") != (args.reference is not None):
        raise InputError(
            f"--objective {args.objective}: --reference is needed by excess and means nothing to the others"
        )
    preset = read_preset(args.presets, args.preset, args.method)
    check_sampling(preset.training.sampling, args.objective, preset.dro.allow_natural)
    fabric = make_fabric(choose_device(args.device), args.devices)
    torch.set_num_threads(max(1, args.threads // fabric.world_size))
    # Only the first process writes; were it refused, the others end with it.
    with locked(args.out) if fabric.is_global_zero else nullcontext():
        scans = read_scans(args.manifest, args.threads)
        reference = None
        if args.reference:
            reference = read_reference(args.reference, args.method, args.seed, preset.values, scans.manifest_sha256)
        run = Run(args.method, args.objective, args.seed, preset, reference, args.checkpoint)
        progress = train(run, scans, args.out, fabric, args.accumulate, args.checkpoint_seconds)
        if fabric.is_global_zero:
            write_outputs(run, scans, progress, args.out)


def cost(args: argparse.Namespace) -> None:
    """Print what a run of a preset and method costs: estimated, and measured for a while where `--seconds` is given."""
    import torch

    from neurorad.encoder import choose_device
    from neurorad.pretraining.cost import card, probe
    from neurorad.pretraining.presets import read_preset

    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    preset = read_preset(args.presets, args.preset, args.method)
    if min(args.shape) < LEAST_EDGE or max(args.shape) > LARGEST_EDGE or math.prod(args.shape) > LARGEST_EDGE**3 / 8:
        raise InputError(f"--shape {' '.join(map(str, args.shape))}: no head is of this shape; 160 192 160 is 1 mm")
    measured = probe(preset, args.method, tuple(args.shape), device, args.seconds) if args.seconds else None
    print(card(preset, args.method, tuple(args.shape), device.type, measured))
