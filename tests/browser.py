"""Chromium, where it is: `FASTLOSS_CHROMIUM` names one; else what is installed."""

import os
import shutil

_INSTALLED = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
CHROMIUM = os.environ.get("FASTLOSS_CHROMIUM") or next(filter(None, map(shutil.which, _INSTALLED)), None)
