"""One command for the day a GPU is there: checks, times and memory of everything that runs on it."""
