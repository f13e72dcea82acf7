"""Prints the folder of the trainers, for ``export nnUNet_extTrainer=$(python -m fastloss.integrations.nnunet)``."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
