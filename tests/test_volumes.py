"""The store: what goes in comes out, in parts too, and nothing altered is taken for it."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import blosc2
import numpy as np
import pytest

from neurorad import volumes
from neurorad.volumes import SEQUENCES, VolumeError, load, load_card, save


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """In blocks of four slices."""
    monkeypatch.setattr(volumes, "BLOCK_VOXELS", 4 * 40 * 36)
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


@pytest.mark.parametrize("shape", [(24, 40, 36), (32, 64, 32), (8, 8, 8), (33, 31, 65)])
def test_a_volume_is_what_blosc2_itself_reads(shape, tmp_path, monkeypatch):
    """Several blocks and one, a sequence of zeros and one of another single value; into an array too."""
    monkeypatch.setattr(volumes, "BLOCK_VOXELS", 5000)
    volume = np.random.default_rng(1).normal(size=(4, *shape))
    volume[1], volume[2] = 0, 1.5
    path = tmp_path / "scan.b2nd"
    save(path, volume, {})
    expected = blosc2.open(str(path), mode="r")[:]
    assert np.array_equal(expected, volume.astype(np.float16))
    assert np.array_equal(load(path, check=True), expected)
    out = np.full((2, 4, *shape), np.nan, np.float16)
    assert load(path, out=out[1]) is not None
    assert np.array_equal(out[1], expected)
    assert np.isnan(out[0]).all()
    with pytest.raises(VolumeError, match="shape"):
        load(path, out=np.empty((4, 2, 2, 2), np.float16))


def test_threads_read_different_volumes_at_once(tmp_path):
    """And each gets its own."""
    written = [np.full((4, 20, 24, 40), number) + np.arange(40) for number in range(12)]
    for number, volume in enumerate(written):
        save(tmp_path / f"{number}.b2nd", volume, {})
    with ThreadPoolExecutor(6) as pool:
        for number, found in enumerate(pool.map(lambda n: load(tmp_path / f"{n % 12}.b2nd"), range(240))):
            assert np.array_equal(found, written[number % 12])


def test_a_file_cut_anywhere_is_refused(stored):
    path, _, _ = stored
    content = path.read_bytes()
    for share in np.linspace(0.01, 0.99, 40):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(VolumeError, match="unreadable"):
            load(path)


def test_any_byte_of_the_header_may_be_wrong(stored):
    """A volume of its shape comes out, or the error that says so; nothing else, and no crash."""
    path, volume, _ = stored
    content = path.read_bytes()
    for place in range(0, 400):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with suppress(VolumeError):
            assert load(path).shape == volume.shape


def test_a_foreign_layout_is_refused(tmp_path):
    path = tmp_path / "scan.b2nd"
    blosc2.asarray(np.zeros((4, 8, 8, 8), np.float16), chunks=(1, 8, 8, 8), blocks=(1, 4, 4, 4), urlpath=str(path))
    with pytest.raises(VolumeError, match=r"blocks \(1, 4, 4, 4\).*make it again"):
        load(path)


def test_a_part_is_read_without_the_rest(stored):
    path, volume, _ = stored
    array = blosc2.open(str(path), mode="r")
    assert array.chunks == (1, 24, 40, 36)
    assert array.blocks == (1, 4, 40, 36)
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
