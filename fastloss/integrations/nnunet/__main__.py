"""How nnU-Net finds the trainers.

``python -m fastloss.integrations.nnunet`` prints their folder, for ``export nnUNet_extTrainer=$(…)``; with ``install``
they are put beside nnU-Net's own, in the environment that runs, and need no variable; ``uninstall`` takes them away.
"""

import sys
from pathlib import Path

TRAINERS = "fastloss_trainers"
ENTRY = f'''"""Put here by ``python -m fastloss.integrations.nnunet install``."""

from fastloss.integrations.nnunet.{TRAINERS} import *
'''


def entry() -> Path:
    """The file among nnU-Net's variants that imports the trainers."""
    try:
        import nnunetv2.training.nnUNetTrainer.variants as variants
    except ImportError as error:
        raise SystemExit(f"nnU-Net is not installed here ({error}): pip install nnunetv2") from None
    return Path(variants.__path__[0]) / f"{TRAINERS}.py"


def main(arguments: list[str]) -> None:
    """Prints what was done."""
    if not arguments:
        print(Path(__file__).parent)
    elif arguments == ["install"]:
        file = entry()
        try:
            file.write_text(ENTRY)
        except OSError as error:
            raise SystemExit(f"{error}; export nnUNet_extTrainer={Path(__file__).parent} does without") from None
        print(f"nnUNetv2_train … -tr nnUNetTrainerFastloss: found in {file}")
    elif arguments == ["uninstall"]:
        entry().unlink(missing_ok=True)
        print(f"removed {entry()}")
    else:
        raise SystemExit(f"got {' '.join(arguments)}, expected nothing, install or uninstall")


if __name__ == "__main__":
    main(sys.argv[1:])
