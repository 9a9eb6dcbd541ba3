"""kohya's sdxl_train_network.py with SingleInsert's losses. Started in the folder of sd-scripts:

    accelerate launch --num_cpu_threads_per_process 1 .../kohya_singleinsert_sdxl.py --config_file run.toml

Options are those of sdxl_train_network.py and --class_prompt, --background_weight, --semantic_weight, --x0_loss.
"""

import os
import sys
from importlib.util import find_spec

sys.path.insert(0, os.getcwd())  # accelerate puts this file's folder there, not the one it is started in
if find_spec("sdxl_train_network") is None:
    sys.exit("error: start this in the folder of sd-scripts: no sdxl_train_network.py here")

import sdxl_train_network
from singleinsert_trainer import SingleInsertMixin, main


class SdxlSingleInsertTrainer(SingleInsertMixin, sdxl_train_network.SdxlNetworkTrainer):
    pass


if __name__ == "__main__":
    main(SdxlSingleInsertTrainer, sdxl_train_network.setup_parser())
