"""Stopping and going on: a run's checkpoint written now and then and read back, and the signals that end a job."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from neurorad.files import write_table
from neurorad.pretraining.checkpoint import ASIDE, CHECKPOINT, CheckpointError, load_checkpoint, save_checkpoint
from neurorad.pretraining.runs import Progress


class Keeper:
    """Writes a run's checkpoint now and then, and reads it back. Only the first process writes."""

    def __init__(
        self, out: Path, identity: dict[str, Any], seconds: float, writes: bool, say: Callable[[str], None]
    ) -> None:
        self.out, self.identity, self.seconds, self.writes, self.say = out, identity, seconds, writes, say
        self.path, self.saved = out / CHECKPOINT, time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another."""
        return time.monotonic() - self.saved >= self.seconds

    def look(self, progress: Progress, healthy: bool, now: bool) -> None:
        """Save if it is time, but never over a good checkpoint once something looks wrong.

        Raises:
            InputError: it could not be written.
        """
        if not (self.writes and healthy and (now or self.due())):
            return
        state = {
            "identity": self.identity,
            "step": progress.step,
            "method": progress.method.state_dict(),
            "optimiser": progress.optimiser.state_dict(),
            "dro": progress.dro.state_dict(),
            "choice": progress.choice.state_dict(),
            "history": progress.history,
            "groups": progress.groups,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }
        save_checkpoint(self.path, state)
        # For who watches a run that takes days; the last rows are written with the encoder.
        write_table(self.out / "history.csv", pd.DataFrame(progress.history))
        write_table(self.out / "groups.csv", pd.DataFrame(progress.groups))
        self.saved = time.monotonic()

    def resume(self, progress: Progress) -> None:
        """Continue from the checkpoint; a damaged one is overwritten later, one of another run is put aside."""
        if not self.path.is_file():
            return
        try:
            state = load_checkpoint(self.path)
            differing = [key for key in self.identity if state["identity"].get(key) != self.identity[key]]
        except CheckpointError as problem:
            self.say(f"{self.path}: unreadable checkpoint ({problem}); starting at step 0")
            return
        if differing:
            self.say(
                f"{self.path}: checkpoint of another run (differs in {', '.join(differing)}), kept as {ASIDE} until "
                "this run is done; starting at step 0"
            )
            if self.writes:
                self.path.rename(self.out / ASIDE)
            return
        progress.method.load_state_dict(state["method"])
        progress.optimiser.load_state_dict(state["optimiser"])
        progress.dro.load_state_dict(state["dro"])
        progress.choice.load_state_dict(state["choice"])
        progress.step, progress.history, progress.groups = state["step"], state["history"], state["groups"]
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and len(state["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.say(f"resumed at step {progress.step}")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list to which SIGTERM and SIGUSR1 are added instead of ending the process."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda signum, frame: received.append(signum)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
