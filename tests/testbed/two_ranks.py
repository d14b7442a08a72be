"""Run by torchrun: train by the program's own `train` and keep every rank's weights. Arguments: DATA RUN CONFIG."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from monai_train.config import read_config
from monai_train.training import train as program

data, run, config = (Path(one) for one in sys.argv[1:])
states = []
new_state = program.new_state


def remembered(settings: program.TrainConfig, classes: program.Classes) -> program.TrainingState:
    states.append(new_state(settings, classes))
    return states[-1]


program.new_state = remembered
program.train(data, run, read_config(config))
torch.save(states[0].model.state_dict(), run / f"rank-{os.environ['RANK']}.pt")
