"""What README and docs say can be typed: links lead somewhere, commands parse, settings are accepted by the schema."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from neurorad.cli import STAGES, parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
VERBS = {verb for owned in STAGES.values() for verb in owned}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """`neurorad ...` in code blocks and between backticks, whole commands only: no `...` and no prose."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(body for _, body in BLOCK.findall(text)).replace("\\\n", " ")
    typed = re.findall(r"^\s*(?:\$ )?(neurorad [a-z].*)$", blocks, re.MULTILINE)
    typed += re.findall(r"`(neurorad [a-z][^`]*)`", BLOCK.sub("", text).replace("\n", " "))
    return [re.sub(r"\s+#.*$", "", command) for command in typed if "..." not in command]


def test_there_is_something_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 10


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if not re.match(r"https?:", t) and not (page.parent / t).exists()]
    assert not missing
    named = re.findall(r"`((?:workflow|resources|tests|benchmarks|docs|envs|slurm)/[\w./-]+\.\w+)`", text)
    # RELEASE and the like stand for a name; the recipes make files of their own.
    named = [] if page.name == "extending.md" else [path for path in named if not re.search(r"\b[A-Z]{3,}\b", path)]
    gone = [path for path in named if not (ROOT / path).exists()]
    assert not gone


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_formula_needs_a_renderer(page):
    prose = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    assert not re.search(r"\$[^$\s][^$\n]*\$|\$\$|\\[a-zA-Z(\[]", prose)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_ones_that_the_program_takes(page, capsys):
    for command in commands(page):
        words = shlex.split(re.sub(r"\[[^\]]*\]", "", command))[1:]
        if words[0] not in VERBS:
            pytest.fail(f"{name(page)}: `{command}`: no such verb")
        known = parser(words[0])._subparsers._group_actions[0].choices[words[0]]
        flags = {flag for action in known._actions for flag in action.option_strings}
        unknown = {word.split("=")[0] for word in words[1:] if word.startswith("-")} - flags
        assert not unknown, f"{name(page)}: `{command}`: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_settings_are_ones_that_the_schema_takes(page):
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        body = body.replace("sha256: ...", f"sha256: '{'0' * 64}'")
        settings = yaml.safe_load(body) if kind == "yaml" else None
        if not isinstance(settings, dict) or not set(settings) <= set(schema["properties"]):
            continue
        problems = [error.message for error in Draft202012Validator(schema).iter_errors(shipped | settings)]
        assert not problems, f"{name(page)}: {problems}"
