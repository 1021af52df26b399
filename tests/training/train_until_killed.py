"""Trains, with a checkpoint every few updates, until test_checkpoints.py kills it.

python train_until_killed.py CHECKPOINT RESULT
"""

import sys
from pathlib import Path

import torch
from training_support import everything, make_data, make_trainer

checkpoint, result = map(Path, sys.argv[1:])
torch.set_num_threads(1)
trainer, data = make_trainer(), make_data()
if checkpoint.exists():
    trainer.load(checkpoint)
    print("resumed", trainer.updates, flush=True)


def save(trainer):
    if trainer.updates % 3 == 0:
        trainer.save(checkpoint)
        print("saved", trainer.updates, flush=True)


history = trainer.fit(data, epochs=12, progress=False, callback=save)
torch.save([*everything(trainer), torch.tensor(history)], result)
