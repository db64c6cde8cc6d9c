"""A real browser without a screen, for tests of the pages that we write."""

import shutil
import subprocess

import pytest

needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def open_page(path, tmp_path, *flags):
    """Return the document that a page becomes, and what its console says of errors and of what was refused."""
    command = ["chromium", "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += ["--ignore-gpu-blocklist", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000"]
    command += ["--enable-logging=stderr", *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, [line for line in console if "rror" in line or "efused" in line or "violates" in line]
