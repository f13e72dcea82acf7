"""fastloss's benchmarks: `python -m bench main | train | speed` (see `python -m bench --help`)."""
