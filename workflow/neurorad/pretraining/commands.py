"""`neurorad pretrain`."""

import argparse
from pathlib import Path

from neurorad import RESOURCES
from neurorad.encoder_names import OBJECTIVES
from neurorad.problems import InputError

PRESETS = RESOURCES / "presets.yaml"


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    verb = verbs.add_parser(
        "pretrain",
        help="train one encoder by self-supervision, with or without Group-DRO",
        description="Trains one encoder on the scans of a manifest. Stopped by SIGTERM or SIGUSR1, or killed, it "
        "continues from OUT/checkpoint.pt when the same command is given again.",
        epilog="example: neurorad pretrain --method byol --objective dro --seed 0 --preset demo\n"
        "         --manifest results/cohorts/pretraining_manifest.tsv --out results/encoders/byol-dro-s0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--method", required=True, choices=["byol", "dino", "mae", "moco"])
    verb.add_argument(
        "--objective",
        required=True,
        choices=OBJECTIVES,
        help="base: mean of the samples' losses; balanced: the same over group-balanced batches; dro: groups weighted by "
        "Group-DRO; excess: by Group-DRO on their loss above the base run's; worst: the worst group of each batch",
    )
    verb.add_argument("--reference", type=Path, metavar="FOLDER", help="excess: the encoder folder of the base run")
    verb.add_argument("--seed", required=True, type=int)
    verb.add_argument("--preset", required=True, help="name of a preset in the preset file")
    verb.add_argument("--presets", type=Path, default=PRESETS, metavar="YAML", help="preset file [the shipped one]")
    verb.add_argument("--manifest", required=True, type=Path, metavar="TSV")
    verb.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    verb.add_argument("--checkpoint-seconds", type=float, default=300.0, metavar="S", help="between checkpoints [300]")
    verb.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
    verb.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    verb.set_defaults(run=pretrain)


def pretrain(args: argparse.Namespace) -> None:
    import torch

    from neurorad.encoder import choose_device
    from neurorad.pretraining.engine import Run, train
    from neurorad.pretraining.objectives import read_reference
    from neurorad.pretraining.outputs import write_outputs
    from neurorad.pretraining.presets import read_preset
    from neurorad.pretraining.scans import read_scans

    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    if (args.objective == "excess") != (args.reference is not None):
        raise InputError(
            f"--objective {args.objective}: --reference is needed by excess and means nothing to the others"
        )
    preset = read_preset(args.presets, args.preset, args.method)
    scans = read_scans(args.manifest)
    reference = None
    if args.reference:
        reference = read_reference(args.reference, args.method, preset.values, scans.manifest_sha256)
    run = Run(args.method, args.objective, args.seed, preset, reference)
    args.out.mkdir(parents=True, exist_ok=True)
    progress = train(run, scans, args.out, device, args.checkpoint_seconds)
    write_outputs(run, scans, progress, args.out)
