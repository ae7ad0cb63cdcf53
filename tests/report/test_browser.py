"""The page in Chromium, at phone and desktop width, in light and dark mode; skipped if Chromium is not installed."""

import re
import shutil
import subprocess
import sys

import pytest
from synthetic import write

from ersparse import cli

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<script>
let errors = 0;
addEventListener("error", () => errors++);
addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const dark = getComputedStyle(document.body).backgroundColor !== "rgb(255, 255, 255)";
  const asked = performance.getEntriesByType("resource").length;
  parent.postMessage([innerWidth, document.documentElement.scrollWidth, dark, errors, asked].join(" "), "*");
});
</script></head>"""
FRAMES = """<!doctype html><meta name="color-scheme" content="light dark"><body data-seen="">
<script>addEventListener("message", (event) => (document.body.dataset.seen += event.data + ";"));</script>
<iframe src="index.html" width="375" height="900" style="border: 0"></iframe>
<iframe src="index.html" width="1440" height="900" style="border: 0"></iframe>"""  # windows are 500 pixels or wider


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_page_renders_at_both_widths_and_in_both_color_schemes(tmp_path, monkeypatch, dark):
    """With all details open, the page fits the window, has no script errors, loads nothing, and follows the scheme."""
    for seed in range(2):
        for method in ("fixed", "draw"):
            write(tmp_path, seed=seed, accuracy=0.5 + seed / 10, method=method)
            write(tmp_path, seed=seed, level=0.99, sparsity="uniform", method=method)
    write(tmp_path, seed=2, state="failed")
    monkeypatch.setattr(sys, "argv", ["ersparse", "report", str(tmp_path)])
    assert cli.main() == 0
    page = tmp_path / "report" / "index.html"
    page.write_text(page.read_text().replace("</head>", MEASURE))
    frames = page.with_name("frames.html")
    frames.write_text(FRAMES)
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", *scheme]
    command = [CHROMIUM, *words, "--window-size=1600,1000", "--enable-logging=stderr", "--dump-dom", frames.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen and "CONSOLE" not in done.stderr, done.stderr[-2000:]
    phone, desk = sorted((frame.split() for frame in seen[1].split(";")[:-1]), key=lambda frame: int(frame[0]))
    for width, (inner, scroll, is_dark, errors, asked) in ((375, phone), (1440, desk)):
        assert int(scroll) <= int(inner) == width
        assert (is_dark, errors, asked) == (str(dark).lower(), "0", "0")
