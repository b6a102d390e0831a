"""The processes of one run and what they tell each other, by Lightning Fabric.

Every process holds the whole state and works on its share of each batch. Losses, signals and features are gathered in
the sampler's order, so that all of them, and any number of them, compute the same group weights and the same rows.

Fabric's mixed precision is not used: it would run the losses in bfloat16 too. See `Batch.precision`.
"""

import ctypes
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed, nn

from neurorad.pretraining.draws import moved
from neurorad.pretraining.step import Batch, Method
from neurorad.problems import InputError

Item = TypeVar("Item")


def make_fabric(device: torch.device, count: int = 1) -> Fabric:
    """`count` processes on this machine, one a device; started by torchrun or `srun --ntasks`, those join instead."""
    external = TorchElasticEnvironment.detect() or (_slurm_tasks() > 1 and SLURMEnvironment.detect())
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise InputError(
            f"--devices {count}: this job sees {torch.cuda.device_count()} GPUs; ask for more or for fewer"
        )
    strategy: Any = "auto"
    if count > 1 or external:
        # Unused: DINO's last layer while it is frozen. Buffers are kept equal by what is gathered.
        strategy = DDPStrategy(
            find_unused_parameters=True,
            forward_sync_buffers=False,
            process_group_backend="nccl" if device.type == "cuda" else "gloo",
        )
    # Named, because one task with several GPUs, as Snakemake's Slurm jobs are, is no error here.
    plugins: list[Any] = [] if external else [LightningEnvironment()]
    fabric = Fabric(accelerator=device.type, devices=count, strategy=strategy, plugins=plugins)
    fabric.launch()
    if device.type == "cpu":
        keep_freed_memory()
    return fabric


def keep_freed_memory() -> None:
    """Let this process use again what its main thread frees, until it ends.

    Else glibc gives large tensors back to the system, which then fills each page of the next one with zeros: a tenth of a step
    on one CPU, and more where several processes do it at once.
    """
    libc = ctypes.CDLL(None)
    # Other C libraries have no such call.
    if hasattr(libc, "mallopt"):
        # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (-1: never) and M_TOP_PAD.
        for parameter, value in ((-4, 0), (-1, -1), (-2, 2**26)):
            libc.mallopt(parameter, value)


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", "1"))


class OneStep(nn.Module):
    """A method's step as a module's `forward`, which is what DDP watches."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Any]:
        """The fields of the step's `StepResult`."""
        return dict(vars(self.method.step(batch)))


def share(chosen: Sequence[Any], fabric: Fabric, parts: int) -> list[list[Any]]:
    """Own samples of a batch, in `parts` micro-batches: process r of n has `chosen[r::n]`.

    Raises:
        InputError: the batch cannot be divided evenly.
    """
    own = list(chosen[fabric.global_rank :: fabric.world_size])
    size, rest = divmod(len(chosen), fabric.world_size * parts)
    if rest or not size:
        raise InputError(
            f"training.batch_size {len(chosen)} cannot be divided by {fabric.world_size} devices x {parts} "
            "micro-batches; change --devices, --accumulate or the preset's batch size"
        )
    return [own[part * size : (part + 1) * size] for part in range(parts)]


def gathered(fabric: Fabric, parts: Sequence[Tensor]) -> Tensor:
    """Micro-batches `[b, ...]` of this process `-> [B, ...]` of all, in the order of the batch before `share`."""
    own = torch.cat([part.detach() for part in parts])
    return own if fabric.world_size == 1 else of_all_devices(own)


def _processes() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@torch.no_grad()
def of_all_devices(own: Tensor) -> Tensor:
    """`[b, ...]` of this process `-> [B, ...]` of all, in the order of the batch before `share`; without gradient."""
    _, count = _processes()
    if count == 1:
        return own
    everyone = [torch.empty_like(own) for _ in range(count)]
    distributed.all_gather(everyone, own.contiguous())
    return torch.stack(everyone, dim=1).flatten(0, 1)


def own_rows(size: int, device: torch.device) -> Tensor:
    """`[size]`: where this process's samples stand in what `of_all_devices` returns."""
    rank, count = _processes()
    return rank + count * torch.arange(size, device=device)


def one_ahead(
    items: Generator[Item, None, None], tensors_of: Callable[[Item], Iterable[Tensor]], device: torch.device
) -> Iterator[Item]:
    """The items of a generator, each made for a GPU while it and the caller are at work on the one before: in a thread, and in
    a stream, of their own.

    Args:
        tensors_of: those of an item that the caller uses.
    """
    stream = torch.cuda.Stream(device)

    def make() -> tuple[Item | None, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return next(items, None), stream.record_event()

    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="views") as pool:
        upcoming = pool.submit(make)
        while True:
            item, made = upcoming.result()
            if item is None:
                return
            upcoming = pool.submit(make)
            now = torch.cuda.current_stream(device)
            now.wait_event(made)
            for tensor in tensors_of(item):
                tensor.record_stream(now)
            yield item


def towards_host(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy `values` to the CPU; the function returned waits for the copy, and for nothing queued after it."""
    if not values.is_cuda:
        return lambda: values
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> Tensor:
        arrived.synchronize()
        return copy

    return read


def anywhere(fabric: Fabric, number: int) -> Callable[[], int]:
    """The largest `number` of all processes, when it is read."""
    if fabric.world_size == 1:
        return lambda: number
    largest = towards_host(cast(Tensor, fabric.all_reduce(moved(torch.tensor(number), fabric.device), reduce_op="max")))
    return lambda: int(largest())
