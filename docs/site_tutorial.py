"""Hook of mkdocs: the notebook docs/tutorial.ipynb as a page, with the outputs that it is stored with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

NOTEBOOK = Path(__file__).resolve().parent / "tutorial.ipynb"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_files(files: Files, config: Any) -> Files:
    """Add the page."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    files.append(File.generated(config, "tutorial.md", content="\n\n".join(map(_markdown, cells)) + "\n"))
    return files


def _markdown(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    language = "bash" if source.startswith("%%bash") else "python"
    code = source.removeprefix("%%bash\n")
    shown = ANSI.sub("", "".join(map(_text, cell["outputs"]))).rstrip()
    return f"```{language}\n{code}\n```" + (f"\n\n``` {{.text .output}}\n{shown}\n```" if shown else "")


def _text(output: dict[str, Any]) -> str:
    """Return the text of an output; errors of a stored notebook would be a mistake."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    return "".join(output["data"]["text/plain"]) + "\n"
