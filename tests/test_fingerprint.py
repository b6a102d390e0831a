"""A fingerprint follows names: what a function reaches counts, its neighbours, comments and docstrings do not."""

import pytest

from neurorad import fingerprint as module
from neurorad.fingerprint import fingerprint

SOURCES = {
    "shared.py": "import math\n\nLIMIT = 3\n\n\ndef near(x):\n    return x < LIMIT\n\n\ndef far(x):\n    return x > 9\n",
    "stage/__init__.py": "",
    "stage/work.py": "from package.shared import near\n\n\ndef work(x):\n    return near(x)\n\n\ndef other(x):\n    return -x\n",
    "stage/commands.py": (
        "def add_verbs(verbs):\n    verbs.add_argument('--n', default=3, help='how many')\n\n\n"
        "def run(args):\n    from package.stage.work import work\n\n    return work(args.n)\n"
    ),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "package"
    for name, text in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(module, "PACKAGE", folder)
    return folder


def now() -> str:
    module._module.cache_clear()
    fingerprint.cache_clear()
    return fingerprint("stage.commands:run")


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("stage/work.py", "near(x)\n", "not near(x)\n", True),
        ("shared.py", "LIMIT = 3", "LIMIT = 4", True),
        ("shared.py", "x < LIMIT", "x <= LIMIT", True),
        ("stage/commands.py", "default=3", "default=4", True),
        ("shared.py", "import math", "import math\n\nmath.tau = 6", True),
        ("shared.py", "x > 9", "x > 8", False),
        ("stage/work.py", "-x", "+x", False),
        ("stage/commands.py", "how many", "number", False),
        ("shared.py", "def near(x):\n", 'def near(x):\n    """Is it?"""  # yes\n', False),
        ("shared.py", "LIMIT = 3", "# three\nLIMIT = (3)", False),
    ],
)
def test_what_is_reached_counts(package, file, old, new, counts):
    before = now()
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new))
    assert (now() != before) == counts


def test_a_module_imported_as_a_whole_counts_as_a_whole(package):
    (package / "stage" / "work.py").write_text(
        "from package import shared\n\n\ndef work(x):\n    return shared.near(x)\n"
    )
    before = now()
    (package / "shared.py").write_text(SOURCES["shared.py"].replace("x > 9", "x > 8"))
    assert now() != before


def test_an_entry_that_is_not_there_is_an_error(package):
    with pytest.raises(KeyError, match="no walk"):
        fingerprint("stage.work:walk")


def test_each_verb_has_its_own():
    entries = ["pretraining.commands:pretrain", "embedding.commands:run_embed", "imaging.commands:run_volumes"]
    module._module.cache_clear()
    fingerprint.cache_clear()
    assert len({fingerprint(entry) for entry in entries}) == 3
