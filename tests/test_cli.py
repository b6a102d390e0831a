"""Every verb explains itself with an example; a user's mistake is one line, not a traceback."""

import pytest

from neurorad.cli import STAGES, main, parser
from neurorad.whole_numbers import natural, positive


def verbs() -> list[str]:
    actions = parser()._subparsers._group_actions
    return sorted(actions[0].choices)


def test_each_stage_owns_the_verbs_that_the_table_says():
    assert verbs() == sorted(verb for owned in STAGES.values() for verb in owned)
    for owned in STAGES.values():
        for verb in owned:
            assert sorted(parser(verb)._subparsers._group_actions[0].choices) == sorted(owned)


@pytest.mark.parametrize("verb", verbs())
def test_help_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert "example: neurorad " + verb in " ".join(capsys.readouterr().out.split())


def test_whole_numbers_have_a_least_value_in_every_verb(capsys):
    actions = [a for v in parser()._subparsers._group_actions[0].choices.values() for a in v._actions]
    kinds = [action.type for action in actions]
    assert not [action.dest for action in actions if action.type is int]
    assert {positive, natural} < set(kinds)
    for command, wrong in (
        (["cost", "--preset", "demo", "--method", "moco", "--shape", "0", "20", "20"], "argument --shape: '0'"),
        (["cost", "--preset", "demo", "--method", "moco", "--threads", "two"], "argument --threads: 'two'"),
        (["phantom", "--cohort", "cuimc", "--seed", "-1"], "argument --seed: '-1'"),
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 2
        assert f"{wrong} is no whole number of at least {int('seed' not in wrong)}" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(
            [
                "inventory",
                "--cohort",
                "x",
                "--release",
                "ucsf",
                "--images",
                str(tmp_path),
                "--out",
                str(tmp_path / "o.tsv"),
            ]
        )
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unknown release 'ucsf'" in error
