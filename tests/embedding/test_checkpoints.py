"""Weights of strangers: no code of theirs runs, and every misfit has one message."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neurorad.embedding.checkpoints import fit_weights, read_tensors, without_prefix
from neurorad.problems import InputError


class Bomb:
    """Writes a file when unpickled by code that runs what it unpickles."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "ran"))


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"state_dict": {"w": torch.ones(2), "x": bomb}}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path, wrap, zipped):
    path, target = tmp_path / "weights.pth", tmp_path / "ran.txt"
    torch.save(wrap(Bomb(target)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="can run code"):
        read_tensors(path, None)
    assert not target.exists()
    # The bomb is a live one: what trusts it runs it.
    torch.load(path, weights_only=False)
    assert target.read_text() == "ran"


def test_a_bare_pickle_is_refused_unread(tmp_path):
    path, target = tmp_path / "weights.bin", tmp_path / "ran.txt"
    path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(InputError, match="weights.bin"):
        read_tensors(path, None)
    assert not target.exists()


def test_a_wrong_hash_is_said_before_the_file_is_opened(tmp_path):
    path, target = tmp_path / "weights.pth", tmp_path / "ran.txt"
    torch.save(Bomb(target), path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=f"has sha256 {found}, the config says {'0' * 64}"):
        read_tensors(path, "0" * 64)
    assert not target.exists()


def test_missing_damaged_and_empty_files_are_said(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: no such file"):
        read_tensors(tmp_path / "none.pth", None)
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(InputError, match=name):
            read_tensors(tmp_path / name, None)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="holds no tensor by name"):
        read_tensors(tmp_path / "empty.pth", None)
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no tensor by name"):
        read_tensors(tmp_path / "list.pth", None)


def test_all_ways_of_keeping_tensors_give_the_same(tmp_path):
    tensors = {"module.weight": torch.randn(3, 2), "module.bias": torch.randn(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    for i, content in enumerate((tensors, {"state_dict": tensors, "epoch": 4}, {"model": tensors})):
        torch.save(content, tmp_path / f"{i}.pth")
    digest = hashlib.sha256((tmp_path / "0.pth").read_bytes()).hexdigest()
    for path, said in ((tmp_path / "a.safetensors", None), *((tmp_path / f"{i}.pth", None) for i in range(3))):
        found = without_prefix(read_tensors(path, said), "module.")
        assert torch.equal(found["weight"], tensors["module.weight"]) and set(found) == {"weight", "bias"}
    read_tensors(tmp_path / "0.pth", digest)


def test_what_does_not_fit_is_named():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    whole = dict(network.state_dict())
    fit_weights(network, {**whole, "head.weight": torch.ones(1)}, "w", ignored=("head.",))
    counters = {name: value for name, value in whole.items() if "num_batches" not in name}
    fit_weights(network, counters, "w", ignored=())
    with pytest.raises(InputError, match=r"w: do not fit the network: lacks 0\.bias; is it"):
        fit_weights(network, {k: v for k, v in whole.items() if k != "0.bias"}, "w", ignored=())
    with pytest.raises(InputError, match=r"has unknown head\.weight"):
        fit_weights(network, {**whole, "head.weight": torch.ones(1)}, "w", ignored=())
    with pytest.raises(InputError, match=r"0\.weight \[3, 5\] where \[3, 2\] is needed"):
        fit_weights(network, {**whole, "0.weight": torch.ones(3, 5)}, "w", ignored=())
    with pytest.raises(InputError, match=r"lacks 0\.weight, 0\.bias, 1\.weight and 3 more"):
        fit_weights(network, {}, "w", ignored=())
