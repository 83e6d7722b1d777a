"""Tables of documents that programs write, between a mark and its end.

<!-- KIND: WHAT -->
(the table)
<!-- end of KIND -->
"""

from __future__ import annotations

import re
from collections.abc import Callable

from fmicl_core.checks import invalid


def tables_of(kind: str) -> re.Pattern[str]:
    """A mark of a kind, its table and its end, with no other mark between them."""
    start, end = f"<!-- {kind}: (?P<what>[^\\n]+?) -->\n", f"<!-- end of {kind} -->"
    return re.compile(rf"^({start})(?:(?!<!-- ).)*?^({end})", re.DOTALL | re.MULTILINE)


def filled(text: str, kind: str, table: Callable[[str], str]) -> str:
    """A document with every table of a kind as `table`, which is called with WHAT, has it now.

    Raises:
        ValueError: a mark has no end, or an end no mark.
    """
    mark, end = f"<!-- {kind}", f"<!-- end of {kind}"
    new, count = tables_of(kind).subn(
        lambda found: f"{found[1]}\n{table(found['what'])}\n\n{found[3]}", text
    )
    for line in (mark, end):
        if (found := len(re.findall(f"^{line}", text, re.MULTILINE))) != count:
            received = f"{found} lines {line!r}, {count} of them in pairs"
            expected = f"a line '{end} -->' below every '{mark}: '"
            raise invalid("text", expected, received, what="marks")
    return new
