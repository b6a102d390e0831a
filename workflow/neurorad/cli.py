"""`neurorad <verb> ...`: every verb of the workflow, each also useful alone."""

import argparse
import errno
import importlib
import os
import sys

from neurorad import __version__
from neurorad.job_record import write_record
from neurorad.problems import InputError

STAGES = {
    "cohorts": ("inventory", "labels", "audit", "excluded"),
    "imaging": ("volumes", "volumes-index", "qc", "view"),
    "pretraining": ("pretrain", "cost"),
    "embedding": ("embed", "embed-shifted", "ensemble", "export", "finetune", "rivals"),
    "evaluation": ("folds", "probe", "survival", "invariance", "stress", "compare", "clean", "reliability"),
    "explanation": ("explain", "native"),
    "reporting": ("figure", "training-pages", "table", "report"),
    "provenance": (
        *("crate", "verify", "phi-audit", "plan", "trace"),
        *("lock-plan", "deviations", "claims", "documents", "manifest"),
    ),
    "phantom": ("phantom",),
    "doctor": ("doctor", "init"),
}
"""Stage -> its verbs. A verb imports its own stage alone: a study has hundreds of short jobs."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


CANNOT_WRITE = {
    errno.ENOSPC: "free some disk",
    errno.EDQUOT: "free some of the disk quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "mend the permissions",
    errno.ENOENT: "mend the path",
    errno.EISDIR: "a file is meant and a folder has its name: rename it",
    errno.ENOMEM: "ask for more memory",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the link",
    errno.EEXIST: "a folder is meant and a file has its name: rename it",
    errno.ENOTDIR: "a folder is meant and a file has its name: rename it",
}
"""What stops a job that is no fault of the code -> the way out."""


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of every verb, or of the stage that `verb` belongs to."""
    top = argparse.ArgumentParser(
        prog="neurorad",
        description="Multi-site brain-tumour MRI to self-supervised encoders and their audit. "
        "Snakemake calls these verbs; each works alone on the files it is handed.",
    )
    top.add_argument("--version", action="version", version=f"neurorad {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    owners = [stage for stage, owned in STAGES.items() if verb in owned] or STAGES
    for stage in owners:
        importlib.import_module(f"neurorad.{stage}.commands").add_verbs(verbs)
    return top


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. A failure that a user can mend is one line on stderr and exit status 1, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser(arguments[0] if arguments else None).parse_args(arguments)
    # Numeric libraries read these once, when they are first imported: before any verb runs.
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(getattr(args, "threads", None) or 1)
    # Blosc writes blocks as its threads finish them: with more than one, the bytes of a volume would follow the clock.
    os.environ["BLOSC_NTHREADS"] = "1"
    try:
        args.run(args)
        write_record(arguments, vars(args))
    except InputError as problem:
        print(f"neurorad {args.verb}: {problem}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as problem:
        if problem.errno not in CANNOT_WRITE:
            raise
        where = f"{problem.filename}: " if problem.filename else ""
        print(
            f"neurorad {args.verb}: {where}{problem.strerror}; {CANNOT_WRITE[problem.errno]}, then give the same "
            "command again: nothing half-written is kept, and what was finished stays",
            file=sys.stderr,
        )
        sys.exit(2)
    except (MemoryError, RuntimeError) as problem:
        if (way_out := _out_of_memory(problem)) is None:
            raise
        print(f"neurorad {args.verb}: out of memory; {way_out}", file=sys.stderr)
        sys.exit(2)


def _out_of_memory(problem: Exception) -> str | None:
    """The way out, where memory is what was lacking. PyTorch tells it by RuntimeErrors, that of a GPU by one of its own name."""
    if type(problem).__name__ == "OutOfMemoryError":
        return "the GPU is full: take a larger one, fewer samples a batch, or --accumulate where there is one"
    if isinstance(problem, MemoryError) or "can't allocate memory" in str(problem):
        return "ask for more (`mem_mb` of the rule in the profile), or run fewer jobs side by side"
    return None


if __name__ == "__main__":
    main()
