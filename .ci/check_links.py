"""Checks the links of a built site: each leads to a file, and to an anchor that the page has.

usage: python .ci/check_links.py site [--external]

--external also asks the servers of other sites, and prints which do not answer; it never fails for them.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what a tag refers to, and its names."""
        for key, value in attributes:
            if value is not None and key in ("href", "src"):
                self.links.add(value)
            if value is not None and (key == "id" or (tag == "a" and key == "name")):
                self.anchors.add(value)


def broken(site: Path) -> tuple[list[str], set[str]]:
    """Return the links that lead nowhere, and those to other sites."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    faults, external = [], set()
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                external.add(link.partition("#")[0])
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else None
            if not target.exists() or (anchors is not None and unquote(parts.fragment) not in anchors):
                faults.append(f"{path.relative_to(site)}: {link}")
    return faults, external


def unanswered(link: str) -> str | None:
    """Return why a server does not show a page, or None if it does."""
    try:
        with urlopen(Request(link, headers={"User-Agent": "link check"}), timeout=20):
            return None
    except HTTPError as error:
        return f"{link}: {error.code}" if error.code in (404, 410) else None  # others refuse programs
    except (URLError, OSError, ValueError) as error:
        return f"{link}: {error}"


def main(site: Path, ask: bool) -> int:
    """Print the links that lead nowhere, and return the exit status."""
    faults, external = broken(site.resolve())
    print(*(faults or [f"{site}: every link leads somewhere ({len(external)} to other sites)"]), sep="\n")
    if ask:
        with ThreadPoolExecutor(8) as pool:
            print(*filter(None, pool.map(unanswered, sorted(external))), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--external" in sys.argv))
