"""Names and files that mean harm are refused or do none."""

import shlex

import pytest
import yaml

from neurorad.configuration import read_config
from neurorad.problems import InputError
from tests.workflow.test_dag import dry_run
from tests.workflow.test_incremental import config


@pytest.mark.parametrize(
    "name", ["../escape", "a/b", "$(touch harm)", "a;touch harm", "a b", "'a'", "Ä", "-rf", "", "a\n"], ids=repr
)
def test_a_cohort_by_such_a_name_is_refused_before_any_job(tmp_path, name):
    """The schema is the one that the Snakefile applies before it plans anything."""
    settings = config(tmp_path)
    settings["cohorts"][name] = settings["cohorts"].pop("east")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match="does not match"):
        read_config(tmp_path / "study.yaml")


def test_a_folder_by_any_name_is_only_a_name(tmp_path):
    """The command that the shell would get holds the folder as one word."""
    folder = 'a b\'s "x" $(touch harm); touch harm & `touch harm` größe'
    settings = config(tmp_path)
    settings["cohorts"]["east"]["images"] = f"data/{folder}"
    (tmp_path / "data" / folder).mkdir(parents=True)
    run = dry_run(tmp_path, settings, "results/cohorts/east/scans.tsv", "--printshellcmds")
    told = run.stdout + run.stderr
    assert run.returncode == 0, told[-2000:]
    (command,) = [line for line in told.splitlines() if "neurorad inventory" in line]
    words = shlex.split(command.split(" 2> ")[0])
    assert words[words.index("--images") + 1] == f"data/{folder}"
    assert not list(tmp_path.rglob("harm"))


def test_a_yaml_bomb_is_refused_by_its_keys(tmp_path):
    levels = ['a0: &a0 ["x", "x", "x", "x", "x", "x", "x", "x", "x"]']
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(levels))
    with pytest.raises(InputError, match="'a9' were unexpected") as refused:
        read_config(tmp_path / "bomb.yaml")
    assert len(str(refused.value)) < 1000


def test_a_config_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "code.yaml").write_text("cohorts: !!python/object/apply:os.system ['touch harm']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        read_config(tmp_path / "code.yaml")
    assert not list(tmp_path.rglob("harm"))
