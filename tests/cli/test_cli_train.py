"""``fdd train``: its own share of what train_net.py does."""

from __future__ import annotations

import pytest
from torch.multiprocessing import ProcessExitedException

from fdd.cli import train
from fdd.cli.main import main

TOY = ["train", "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('gone',)"]


@pytest.fixture
def one_of_two(monkeypatch):
    """As if this were one of two processes."""
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)


def failing(monkeypatch, error: Exception) -> None:
    def fail(args):
        raise error

    monkeypatch.setattr("fdd.engine.command.main", fail)


def test_a_mistake_is_found_before_processes_are_started(monkeypatch, capsys) -> None:
    monkeypatch.setattr("fdd.engine.processes.launch", lambda *a, **k: pytest.fail("started"))
    assert main([*TOY, "--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "3"]) == 2
    assert "must be a positive multiple of 2" in capsys.readouterr().err
    assert main([*TOY, "--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "2"]) == 2
    assert "'gone'" in capsys.readouterr().err


def test_there_must_be_a_config(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 2
    assert "--config-file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_processes_says_its_mistake_and_no_traceback(
    one_of_two, monkeypatch, capsys
) -> None:
    failing(monkeypatch, ValueError("no such thing"))
    args = train.argparse.Namespace(debug=False)
    with pytest.raises(SystemExit) as stopped:
        train.process(args)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "fdd train: error in process 1: no such thing\n"
    args.debug = True
    with pytest.raises(ValueError, match="no such thing"):
        train.process(args)


def test_a_bug_in_one_of_several_processes_stays_one(one_of_two, monkeypatch) -> None:
    failing(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        train.process(train.argparse.Namespace(debug=False))


@pytest.mark.parametrize("code", [2, 1])
def test_the_status_is_that_of_the_processes(code: int, monkeypatch, capsys) -> None:
    def launch(*args, **options):
        raise ProcessExitedException("gone", error_index=0, error_pid=1, exit_code=code)

    monkeypatch.setattr("fdd.engine.processes.launch", launch)
    if code == 2:  # the process has said why
        with pytest.raises(SystemExit) as ended:
            main(TOY)
        assert ended.value.code == 2 and capsys.readouterr().err == ""
    else:
        assert main(TOY) == 2
        said = capsys.readouterr().err
        assert "exit status 1" in said and "--resume" in said


def test_processes_meet_where_detectron2_has_them_meet() -> None:
    from detectron2.engine import default_argument_parser

    from fdd.cli.main import find_command, make_parser
    from fdd.engine.command import split_options

    parser = make_parser(find_command(["train"]))
    usual = default_argument_parser().parse_args([])
    args = split_options(parser.parse_args([]))
    assert {k: v for k, v in vars(args).items() if k in vars(usual)} == vars(usual)
    assert split_options(parser.parse_args(["--dist-url", "tcp://a:1"])).dist_url == "tcp://a:1"
