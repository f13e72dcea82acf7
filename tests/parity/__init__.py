"""Calls of the losses that ``fastloss.accelerate`` serves, drawn at random, with and without it."""
