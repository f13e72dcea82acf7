"""fastloss's benchmarks (`python -m bench --help`): a room for what is compared, and one for each kind of command.

`losses/`     the losses, and the same losses elsewhere
`speed/`      `speed`, `memory`, `scaling`
`training/`   `train`, `volume`, with the data in `datasets/`
`kernels/`    `kernels`
`distances/`  `edt`, `metrics`
`report/`     `report`, `results`: what README and docs show, from JSON

`main_job` takes from speed and training; the other rooms know losses and what lies beside this file.
"""
