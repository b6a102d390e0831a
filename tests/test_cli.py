"""Every verb explains itself with an example; a user's mistake is one line, not a traceback."""

import pytest

from neurorad.cli import STAGES, main, parser


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
