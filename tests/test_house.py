"""The house itself: how long a file may be."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {".py", ".smk", ".js", ".css", ".html", ".yaml", ".sh"}
FOLDERS = ("workflow", "tests", "benchmarks", "resources", "config", "slurm", "envs")


def test_no_source_file_has_more_than_400_lines():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [ROOT / "Snakefile", *files]}
    assert len(lengths) > 300
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > 400} == {}
