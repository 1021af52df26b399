"""One rank of test_distributed.py: trains, saves on the way, loads and trains on.

torchrun --nproc-per-node 2 distributed_worker.py FOLDER    (4 ranks go on from the files of 2)
"""

import dataclasses
import gc
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from training_support import Net, make_data, make_trainer

from stateful_lstm import get_state

KINDS = ("ddp", "fsdp")
EPOCHS, SAVED_AT = 3, 5  # in the middle of an epoch and of sequences


def wrapped(kind, dropout, seed):
    torch.manual_seed(seed)
    model = Net(dropout=dropout).double()
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp":
        fully_shard(model.lstm)
        return fully_shard(model)
    return model


def rows(rank, ranks, batch_size):
    return make_data(batch_size=batch_size, rank=rank, world_size=ranks, dtype=torch.float64)


def results(trainer, history):
    model = trainer.model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {
        "weights": {name: t.clone() for name, t in weights.items()},
        "states": get_state(trainer.objective.bare),
        "history": history,
        "updates": trainer.updates,
        "rng": torch.get_rng_state(),
    }


def train(kind, dropout, data, save_to=None, load_from=None):
    trainer = make_trainer(wrapped(kind, dropout, seed=5 if load_from else 0), seed=11)
    # After make_trainer's seed, which is the same everywhere.
    torch.manual_seed(100 + data.rank)
    if load_from:
        trainer.load(load_from)

    def save(each):
        if save_to and each.updates == SAVED_AT:
            each.save(save_to)

    return results(trainer, trainer.fit(data, EPOCHS, progress=False, callback=save))


def mixed(kind, data, path):
    """FSDP2's mixed precision, whose weights are bfloat16 in forward alone: whole and resumed."""
    if kind != "fsdp":
        return None
    found = []
    for load in (False, True):
        torch.manual_seed(3 if load else 0)
        model = Net(dropout=0.0)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        fully_shard(model.lstm, mp_policy=policy)
        # A float32 output: torch 2.11 cannot differentiate a loss of two dtypes.
        outer = dataclasses.replace(policy, output_dtype=torch.float32)
        trainer = make_trainer(fully_shard(model, mp_policy=outer), seed=11)
        if load:
            trainer.load(path)
        windows = list(make_data(batch_size=2, rank=data.rank, world_size=2))[:6]
        for window in windows[3:] if load else windows:
            trainer.update(window)
            if trainer.updates == 3 and not load:
                trainer.save(path)
        found.append(results(trainer, []))
    return found


def all_of(kind, folder):
    """What this rank finds with models wrapped in this way."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    data = lambda: rows(rank, ranks, 4 // ranks)  # noqa: E731
    if ranks == 2:
        found = {
            "exact": train(kind, 0.0, data(), save_to=folder / "exact"),
            "whole": train(kind, 0.3, data(), save_to=folder / "dropout"),
            "resumed": train(kind, 0.3, data(), load_from=folder / "dropout"),
            "from one": train(kind, 0.0, data(), load_from=folder / "one.pt"),
            "mixed": mixed(kind, data(), folder / "mixed"),
        }
    else:
        found = {"from two": train(kind, 0.0, data(), load_from=folder / "exact")}
    torch.save(found, folder / f"rank{rank} of {ranks}")


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for kind in KINDS:
        all_of(kind, Path(sys.argv[1]) / kind)
    gc.collect()  # a wrapped model that outlives its group may end the process as it exits
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
