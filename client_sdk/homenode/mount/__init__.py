"""A plain folder kept coherent with the directory, for agents that know files only: `homenode mount`.

Theory of operation
-------------------
For each file the mount remembers its *base*: the version and content hash on which folder and directory last agreed.
What is to be done follows from three facts, base, file and artifact, and from nothing else (`plan`): one side changed,
the other follows; both changed, the directory's content takes the file's place and the file's own stays beside it as a
conflict copy, which is named and reported. A push is a compare-and-set against the base, so an edit that somebody made
meanwhile is found by the directory. A pull swaps two files in one step and then looks at what it swapped out: an edit
that came in between is found by its hash (`disk`). Nothing is thrown away that is not on the other side.

Changes of artifacts come by a watch, changes of files by looking at their times and sizes; contents are compared by
hash.
"""

from homenode.mount.mount import Mount, Report

__all__ = ["Mount", "Report"]
