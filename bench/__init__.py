"""fastloss's benchmarks: `python -m bench main | train | volume | speed | edt` (see `python -m bench --help`)."""
