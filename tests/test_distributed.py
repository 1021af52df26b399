"""Two ranks train as one process with the joined batch, and go on from a checkpoint of theirs."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from training_support import Net, everything, make_trainer, same

from stateful_lstm.training import CheckpointError, sharded

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request, tmp_path_factory):
    """What both ranks have found, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(HERE / "ranks.py"), request.param, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [torch.load(folder / f"rank{rank}") for rank in (0, 1)], folder


@pytest.fixture(scope="module")
def one():
    """The same training in one process, with the rows of both."""
    return ranks.train("bare", 0.0, ranks.rows(0, 1, 4))


def joined(found, run):
    """The states of both ranks side by side."""
    h_and_c = [each[run]["states"]["lstm"] for each in found]
    return [torch.cat(pair, 1) for pair in zip(*h_and_c, strict=True)]


def test_parameters_stay_equal_and_states_differ(two):
    first, second = two[0]
    for run in ("exact", "whole"):
        for name, weight in first[run]["weights"].items():
            assert torch.equal(weight, second[run]["weights"][name]), name
        h = [each[run]["states"]["lstm"][0] for each in (first, second)]
        assert not torch.equal(*h)
        assert first[run]["history"] == second[run]["history"]


def test_two_ranks_are_one_process_with_the_joined_batch(two, one):
    found, _ = two
    assert found[0]["exact"]["updates"] == one["updates"]
    torch.testing.assert_close(found[0]["exact"]["weights"], one["weights"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        joined(found, "exact"), list(one["states"]["lstm"]), atol=1e-9, rtol=1e-9
    )
    assert found[0]["exact"]["history"] == pytest.approx(one["history"], rel=1e-9)


def test_the_same_number_of_ranks_goes_on_bit_for_bit(two):
    for found in two[0]:
        whole, resumed = found["whole"], found["resumed"]
        assert same([*whole["weights"].values()], [*resumed["weights"].values()])
        assert same(whole["states"]["lstm"], resumed["states"]["lstm"])
        assert torch.equal(whole["rng"], resumed["rng"])
        assert whole["history"] == resumed["history"] and whole["updates"] == resumed["updates"]


def test_one_process_goes_on_where_two_ranks_were(two, one):
    _, folder = two
    resumed = ranks.train("bare", 0.0, ranks.rows(0, 1, 4), load_from=folder / "exact")
    assert resumed["updates"] == one["updates"]
    torch.testing.assert_close(resumed["weights"], one["weights"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        list(resumed["states"]["lstm"]), list(one["states"]["lstm"]), atol=1e-9, rtol=1e-9
    )
    # Fewer rows in all than there were: the data says so.
    trainer = make_trainer(Net(dropout=0.0).double())
    trainer.load(folder / "exact")
    with pytest.raises(ValueError, match="rows of all ranks 4, the data's is 3"):
        trainer.fit(ranks.rows(0, 1, 3), progress=False)


def test_folders_that_are_refused(two, tmp_path, monkeypatch):
    folder = two[1] / "exact"
    trainer = make_trainer(Net(dropout=0.0).double())
    trainer.fit(ranks.rows(0, 1, 4), progress=False)
    before = everything(trainer)

    def refused(path, text, trainer=trainer):
        with pytest.raises(CheckpointError, match=text):
            trainer.load(path)

    bad = tmp_path / "bad"
    bad.mkdir()
    refused(bad, "no checkpoint, or damaged")
    shutil.copytree(folder, bad, dirs_exist_ok=True)
    part = max(bad.glob("*.distcp"), key=lambda file: file.stat().st_size)
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    refused(bad, "damaged")
    part.write_bytes(whole)
    index = bad / ".metadata"
    monkeypatch.chdir(tmp_path)
    for foreign in (pickle.dumps(Evil()), pickle.dumps({"a": 1}), b"nothing"):
        index.write_bytes(foreign)
        refused(bad, "no checkpoint")
    assert not Path("executed").exists()
    refused(folder, "of another model", make_trainer(Net(hidden=9, dropout=0.0).double()))
    monkeypatch.setattr(sharded, "world", lambda: (0, 3))
    refused(folder, "states of 4 rows, which 3 ranks cannot share")
    assert same(everything(trainer), before)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_save_that_is_killed_again_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    def save(folder):
        model = make_trainer(Net()).model
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sharded.save(folder, model, optimizer, {}, {"progress": {}}, {"rng": {}})

    folder = tmp_path / "checkpoint"
    save(folder)
    with monkeypatch.context() as patched:  # the first: between its renames
        patched.setattr(Path, "rename", once_then(Path.rename, killed))
        with pytest.raises(Killed):
            save(folder)
    assert not folder.exists() and (sharded.whole(folder) / ".metadata").exists()
    with monkeypatch.context() as patched:  # the second: while it writes
        patched.setattr(sharded, "write_tensors", killed)
        with pytest.raises(Killed):
            save(folder)
    assert (sharded.whole(folder) / ".metadata").exists()
    save(folder)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def once_then(first, other):
    calls = []

    def function(*args):
        calls.append(args)
        return (first if len(calls) == 1 else other)(*args)

    return function


def test_a_file_is_not_taken_for_a_folder(tmp_path):
    file = tmp_path / "checkpoint"
    file.write_bytes(b"of one process")
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(NotADirectoryError, match="a checkpoint of one process maybe"):
        sharded.save(file, model, optimizer, {}, {"progress": {}}, {"rng": {}})
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_a_save_that_was_killed_between_its_renames_is_found(two, tmp_path):
    folder = two[1] / "exact"
    for name in ("there.new", "there.old"):
        shutil.copytree(folder, tmp_path / name)
        trainer = make_trainer(Net(dropout=0.0).double())
        trainer.load(tmp_path / "there")
        assert trainer.updates == ranks.SAVED_AT
        shutil.rmtree(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "there")
    # One that was killed while it wrote leaves no index, and is none.
    (tmp_path / "there.new").mkdir()
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "there")
