"""A volume is made again when the code that made it changes, and only then."""

from pathlib import Path

from neurorad.imaging.commands import code_digest


def test_all_code_that_makes_a_volume_or_its_thumbnail_counts_and_the_pages_code_does_not(monkeypatch):
    before, read = code_digest(), Path.read_bytes
    changed = {}
    for name in ("volume.py", "scan.py", "likeness.py", "nifti.py", "volumes.py", "qc.py", "commands.py"):
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.name == name))
        changed[name] = code_digest() != before
    assert changed == dict.fromkeys(changed, True) | {"qc.py": False, "commands.py": False}
