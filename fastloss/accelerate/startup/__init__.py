"""What runs when an interpreter starts; a folder that ``python -m fastloss.accelerate`` puts on PYTHONPATH."""
