"""The store: what goes in comes out, in parts too, and nothing altered is taken for it."""

import json

import blosc2
import numpy as np
import pytest

from neurorad.volumes import SEQUENCES, VolumeError, load, load_card, save


@pytest.fixture
def stored(tmp_path):
    volume = np.random.default_rng(0).normal(size=(4, 24, 40, 36)).astype(np.float32)
    volume[:, :4] = 0
    path = tmp_path / "scan.b2nd"
    return path, volume, save(path, volume, {"preprocessing": {"spacing_mm": 1.0}})


def test_a_volume_comes_back_as_float16_with_its_contract(stored):
    path, volume, digest = stored
    assert load(path, check=True).dtype == np.float16
    assert np.array_equal(load(path), volume.astype(np.float16))
    card = load_card(path)
    assert (card["sha256"], card["shape"], card["sequences"]) == (digest, [4, 24, 40, 36], list(SEQUENCES))
    assert card["preprocessing"] == {"spacing_mm": 1.0}


def test_a_part_is_read_without_the_rest(stored):
    path, volume, _ = stored
    array = blosc2.open(str(path), mode="r")
    assert array.chunks == (1, 24, 40, 36)
    assert max(array.blocks) <= 32
    assert np.array_equal(array[2, 5:9, :8, 3:4], volume[2, 5:9, :8, 3:4].astype(np.float16))


def test_a_part_is_read_from_its_own_blocks_alone(stored):
    """The bytes of the other sequences, and of the last block of this one, are overwritten: the part still comes back."""
    path, volume, _ = stored
    array = blosc2.open(str(path), mode="r")
    content = path.read_bytes()
    for channel in range(4):
        chunk = array.schunk.get_chunk(channel)
        assert content.count(chunk) == 1
        spoiled = 2000 if channel == 2 else len(chunk) - 64
        content = content.replace(chunk, chunk[:-spoiled] + b"\xff" * spoiled)
    path.write_bytes(content)
    part = np.s_[2, 5:9, :8, 3:4]
    assert np.array_equal(blosc2.open(str(path), mode="r")[part], volume[part].astype(np.float16))
    with pytest.raises(VolumeError):
        load(path, check=True)


def test_same_voxels_same_bytes(stored, tmp_path):
    path, volume, _ = stored
    save(tmp_path / "again.b2nd", volume, {})
    assert path.read_bytes() == (tmp_path / "again.b2nd").read_bytes()


def test_altered_truncated_or_absent_files_are_refused(stored):
    path, _, _ = stored
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(VolumeError, match="differ from the sha256"):
        load(path, check=True)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VolumeError, match="unreadable"):
        load(path)
    path.unlink()
    with pytest.raises(VolumeError, match="unreadable"):
        load(path)


@pytest.mark.parametrize("volume", [np.zeros((3, 4, 4, 4)), np.zeros((4, 4, 4)), np.full((4, 4, 4, 4), np.nan)])
def test_what_is_no_volume_is_not_stored(tmp_path, volume):
    with pytest.raises(VolumeError):
        save(tmp_path / "x.b2nd", volume, {})
    assert not list(tmp_path.glob("*.b2nd"))


def test_what_float16_cannot_hold_is_refused(tmp_path):
    with np.errstate(over="ignore"), pytest.raises(VolumeError, match="float16"):
        save(tmp_path / "x.b2nd", np.full((4, 4, 4, 4), 1e6), {})
