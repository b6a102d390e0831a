"""Verb of the phantom stage: one cohort's release folder, or the planted truth of the whole study."""

import argparse
from pathlib import Path

from neurorad import RESOURCES
from neurorad.files import write_json
from neurorad.flag_values import natural
from neurorad.problems import InputError


def add_verbs(verbs: argparse._SubParsersAction) -> None:
    """The verbs of this stage."""
    phantom = verbs.add_parser(
        "phantom",
        help="Write a synthetic multi-site study in the native layouts of the real releases.",
        description="Write one cohort of the synthetic study (images and label table), or truth.json for the whole study. "
        "Same recipe, seed, scale and spacing: the same bytes.",
        epilog="example: neurorad phantom --cohort ucsf-pdgm --out phantom/UCSF-PDGM --seed 0\n"
        "         neurorad phantom --truth phantom/truth.json --seed 0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = phantom.add_mutually_exclusive_group(required=True)
    what.add_argument("--cohort", help="cohort of the recipe to render; needs --out")
    what.add_argument("--truth", type=Path, help="truth.json to write")
    phantom.add_argument("--out", type=Path, help="folder of the release; must be new or empty")
    phantom.add_argument("--recipe", type=Path, default=RESOURCES / "phantom.yaml")
    phantom.add_argument("--seed", type=natural, default=0)
    phantom.add_argument("--scale", type=float, default=1.0, help="factor on the number of patients")
    phantom.add_argument("--spacing", type=float, default=2.0, help="mm; 1 is the releases' own grid (1 to 4)")
    phantom.set_defaults(run=run_phantom)


def run_phantom(args: argparse.Namespace) -> None:
    """Write one cohort of the phantom study, or the truth of all."""
    from neurorad.phantom.plan import plan, read_recipe
    from neurorad.phantom.releases import write_cohort
    from neurorad.phantom.render import Study
    from neurorad.phantom.truth import truth

    if not 1 <= args.spacing <= 4:
        raise InputError(f"phantom --spacing {args.spacing}: must be from 1 to 4 mm")
    if args.cohort and not args.out:
        raise InputError("phantom --cohort needs --out, the folder to write the release to")
    recipe = read_recipe(args.recipe)
    study = Study(recipe, args.seed, args.spacing, plan(recipe, args.seed, args.scale))
    if args.truth:
        write_json(args.truth, truth(study))
    else:
        write_cohort(study, args.cohort, args.out)
