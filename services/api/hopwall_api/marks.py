"""Between which revisions restores were under way, as far as one process has heard.

Pure. A write is acknowledged when it stands outside every restore: before it began, so the restore compared with it,
or behind its end. Which of the two it was is told by the stream's order, once all before the write is folded.
"""

#: Restores that are remembered one by one.
_MOST = 64


class Marks:
    """Between which revisions restores were under way, or may have been where that was not heard."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        #: When the one that is under way began, or at the earliest; None: there is none.
        self._open: int | None = None

    def note(self, revision: int, *, begun: bool) -> None:
        """Take in that a restore has begun or ended at this revision."""
        if begun:
            self._open = revision if self._open is None else self._open
        elif self._open is not None:
            self._close(self._open, revision)

    def jump(self, after: int, last: int, *, begun: bool) -> None:
        """Take in that `last` is the last mark now, and that those after the revision `after` were not heard."""
        if last <= after:
            return
        if self._open is None:
            self._open = after + 1
        if not begun:
            self._close(self._open, last)

    def within(self, revision: int) -> bool:
        """Tell whether a restore was, or may have been, under way when this was stored."""
        if self._open is not None and self._open < revision:
            return True
        return any(begun < revision < ended for begun, ended in self._spans)

    def _close(self, begun: int, ended: int) -> None:
        self._spans.append((begun, ended))
        self._open = None
        if len(self._spans) > _MOST:
            # The two oldest count as one: what lay between them is long answered.
            self._spans[:2] = [(self._spans[0][0], self._spans[1][1])]
