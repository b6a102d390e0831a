"""Every verb explains itself with an example; a user's mistake is one line, not a traceback."""

import pytest

from neurorad.cli import STAGES, main, parser
from neurorad.flag_values import natural, positive


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
    with pytest.raises(SystemExit):
        main(["cost", "--preset", "demo", "--method", "moco", "--threads", "99999999999"])
    assert "argument --threads: '99999999999' is more than 2147483647" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["nan", "-1", "inf", "soon"])
def test_seconds_are_finite_and_not_negative(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        main(["cost", "--preset", "demo", "--method", "moco", "--seconds", wrong])
    assert left.value.code == 2
    assert f"argument --seconds: {wrong!r} is no number of seconds of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file", "a folder is meant and a file has its name"),
        ("file/encoder", "a folder is meant and a file has its name"),
        ("n" * 300, "give a shorter name"),
        ("loop/encoder", "mend the link"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(out, said, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    run = [
        "pretrain",
        "--method",
        "byol",
        "--objective",
        "base",
        "--seed",
        "0",
        "--preset",
        "demo",
        "--manifest",
        "m.tsv",
    ]
    with pytest.raises(SystemExit) as left:
        main([*run, "--out", str(tmp_path / out)])
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_memory_that_is_lacking_is_one_line(capsys, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """PyTorch's, of a GPU."""

    for problem, said in (
        (MemoryError(), "mem_mb"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "mem_mb"),
        (OutOfMemoryError("CUDA out of memory"), "the GPU is full"),
        (RuntimeError("a fault of ours"), None),
    ):

        def fail(args, problem=problem):
            raise problem

        monkeypatch.setattr("neurorad.pretraining.commands.cost", fail)
        with pytest.raises(SystemExit if said else RuntimeError):
            main(["cost", "--preset", "demo", "--method", "moco"])
        assert (said or "") in capsys.readouterr().err


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
