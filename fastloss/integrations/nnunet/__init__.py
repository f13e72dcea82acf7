"""Trainers for nnU-Net, which finds them in the folder that ``nnUNet_extTrainer`` names; ``python -m
fastloss.integrations.nnunet`` prints it. See ``fastloss_trainers.py``."""
