"""fastloss's benchmarks: `python -m bench main | train | speed | edt` (see `python -m bench --help`)."""
