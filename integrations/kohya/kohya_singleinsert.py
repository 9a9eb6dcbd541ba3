"""kohya's train_network.py (SD 1.x, 2.x) with SingleInsert's losses. Started in the folder of sd-scripts:

    accelerate launch --num_cpu_threads_per_process 1 .../kohya_singleinsert.py --config_file run.toml

Options are those of train_network.py and --class_prompt, --background_weight, --semantic_weight, --x0_loss.
"""

import os
import sys
from importlib.util import find_spec

sys.path.insert(0, os.getcwd())  # accelerate puts this file's folder there, not the one it is started in
if find_spec("train_network") is None:
    sys.exit("error: start this in the folder of sd-scripts: no train_network.py here")

import train_network
from singleinsert_trainer import SingleInsertMixin, main


class SingleInsertTrainer(SingleInsertMixin, train_network.NetworkTrainer):
    pass


if __name__ == "__main__":
    main(SingleInsertTrainer, train_network.setup_parser())
