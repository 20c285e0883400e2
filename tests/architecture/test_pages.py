"""Links of the pages lead somewhere: files of the repository, and headings in them."""

import re
import subprocess
from pathlib import Path

_LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Of one page: the links that lead nowhere."""
    broken = []
    for name, anchor in _LINK.findall(page.read_text()):
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor[1:] not in _anchors(target)):
            broken.append(f"{page.name}: {name}{anchor}")
    return broken


def test_every_link_leads_somewhere(repo_root: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=repo_root, capture_output=True, text=True, check=True)
    pages = [repo_root / name for name in listed.stdout.split()]
    assert repo_root / "README.md" in pages
    assert [link for page in pages for link in broken_links(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, here\n[a](#a-heading-here) [b](#another) [c](none.md) [d](https://example.org)\n")
    assert broken_links(page) == ["page.md: #another", "page.md: none.md"]
