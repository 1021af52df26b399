"""Two ranks train as one process with the joined batch, and resume from checkpoints."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from training_support import Net, everything, make_trainer, same

from stateful_lstm.training import CheckpointError, Trainer, sharded

HERE = Path(__file__).parent


def run(folder, count):
    """Runs `count` ranks, with a model in each kind of wrapper, and returns their results."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command.append(f"--nproc-per-node={count}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(HERE / "distributed_worker.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return {
        kind: [torch.load(folder / kind / f"rank{rank} of {count}") for rank in range(count)]
        for kind in worker.KINDS
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same training in one process, with the rows of all; and its checkpoint."""
    path = tmp_path_factory.mktemp("one") / "one.pt"
    return {
        **worker.train("bare", 0.0, worker.rows(0, 1, 4), save_to=path),
        "path": path,
    }


@pytest.fixture(scope="module")
def all_two(one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for kind in worker.KINDS:
        (folder / kind).mkdir()
        shutil.copy(one["path"], folder / kind)
    return run(folder, 2), folder


@pytest.fixture(scope="module")
def all_four(all_two):
    return run(all_two[1], 4)


@pytest.fixture(params=worker.KINDS)
def kind(request):
    return request.param


@pytest.fixture
def two(all_two, kind):
    """The results of both ranks, and the folder of their checkpoints."""
    return all_two[0][kind], all_two[1] / kind


@pytest.fixture
def four(all_four, kind):
    """The results of four ranks that went on from these two."""
    return all_four[kind]


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
    resumed = worker.train("bare", 0.0, worker.rows(0, 1, 4), load_from=folder / "exact")
    assert resumed["updates"] == one["updates"]
    torch.testing.assert_close(resumed["weights"], one["weights"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        list(resumed["states"]["lstm"]), list(one["states"]["lstm"]), atol=1e-9, rtol=1e-9
    )
    # Fewer rows in all than there were: the data says so.
    trainer = make_trainer(Net(dropout=0.0).double())
    trainer.load(folder / "exact")
    with pytest.raises(ValueError, match="rows of all ranks 4, the data's is 3"):
        trainer.fit(worker.rows(0, 1, 3), progress=False)


def test_two_ranks_go_on_where_one_process_was(two, one):
    same_training(two[0], "from one", one)


@pytest.mark.slow
def test_four_ranks_go_on_where_two_were(four, one):
    same_training(four, "from two", one)


def same_training(found, run, one):
    for each in found:
        assert each[run]["updates"] == one["updates"]
        assert each[run]["history"] == pytest.approx(one["history"], rel=1e-9)
        torch.testing.assert_close(each[run]["weights"], one["weights"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        joined(found, run), list(one["states"]["lstm"]), atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("kind", ["fsdp"])  # DistributedDataParallel has no mixed precision
def test_mixed_precision_goes_on_bit_for_bit(two):
    for found in two[0]:
        whole, resumed = found["mixed"]
        assert whole["states"]["lstm"][0].dtype == torch.bfloat16
        assert same([*whole["weights"].values()], [*resumed["weights"].values()])
        assert same(whole["states"]["lstm"], resumed["states"]["lstm"])


def test_one_process_goes_on_saving_where_two_ranks_did(two, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(two[1] / "exact", folder)
    trainer = make_trainer(Net(dropout=0.0).double())
    trainer.load(folder)
    trainer.fit(worker.rows(0, 1, 4), worker.EPOCHS, progress=False)
    trainer.save(folder)
    other = make_trainer(Net(dropout=0.0).double(), seed=3)
    other.load(folder)
    assert same(everything(other), everything(trainer))
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]


def test_a_folder_of_other_groups_is_refused(two):
    model = Net(dropout=0.0).double()
    two_groups = [{"params": model.lstm.parameters()}, {"params": model.head.parameters()}]
    optimizer = torch.optim.Adam(two_groups, 1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
    trainer = Trainer(model, optimizer, torch.nn.MSELoss(), scheduler=scheduler)
    with pytest.raises(CheckpointError, match="of another optimizer: expected the parameters"):
        trainer.load(two[1] / "exact")


def test_damage_of_one_rank_s_part_is_told_of_by_all(monkeypatch):
    def other_rank(found, damage):
        found[:] = ["", "the folder is damaged: rank 1"]

    monkeypatch.setattr(sharded, "world", lambda: (0, 2))
    monkeypatch.setattr(sharded.dist, "all_gather_object", other_rank)
    with pytest.raises(CheckpointError, match="damaged: rank 1"):
        sharded._agree("")


def test_folders_that_are_refused(two, tmp_path, monkeypatch):
    folder = two[1] / "exact"
    trainer = make_trainer(Net(dropout=0.0).double())
    trainer.fit(worker.rows(0, 1, 4), progress=False)
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
    refused(folder, "states of 4 rows, which 3 ranks cannot divide evenly")
    assert same(everything(trainer), before)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_save_that_is_killed_again_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    save, folder = save_empty, tmp_path / "checkpoint"
    save(folder)
    with monkeypatch.context() as patched:  # the first: between its renames
        patched.setattr(Path, "rename", all_but(folder, Path.rename, killed))
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


def all_but(target, rename, other):
    return lambda path, to: (other if Path(to) == target else rename)(path, to)


def test_a_file_gives_way_to_a_folder_and_other_folders_do_not(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"of one process")
    save_empty(path)
    assert (path / ".metadata").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]
    mine = tmp_path / "results"
    mine.mkdir()
    (mine / "precious").write_text("here")
    with pytest.raises(FileExistsError, match="a folder but no checkpoint"):
        save_empty(mine)
    trainer = make_trainer(Net(dropout=0.0))
    with pytest.raises(FileExistsError, match="a folder but no checkpoint"):
        trainer.save(mine)
    assert (mine / "precious").read_text() == "here"


def save_empty(path):
    model = make_trainer(Net()).model
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sharded.save(path, model, optimizer, {}, {"progress": {}}, {"rng": {}})


def test_a_save_that_was_killed_between_its_renames_is_found(two, tmp_path):
    folder = two[1] / "exact"
    for name in ("there.new", "there.old"):
        shutil.copytree(folder, tmp_path / name)
        trainer = make_trainer(Net(dropout=0.0).double())
        trainer.load(tmp_path / "there")
        assert trainer.updates == worker.SAVED_AT
        shutil.rmtree(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "there")
    # One that was killed while it wrote leaves no index, and is none.
    (tmp_path / "there.new").mkdir()
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "there")
