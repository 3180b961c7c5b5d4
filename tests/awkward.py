"""Names that somebody might give to a task, by accident or not."""

from __future__ import annotations

__all__ = ["NAMES"]

NAMES = (
    "</script><img src=x onerror=alert(1)>",
    "]]></title><script>alert(1)</script>",
    "a\"b'c`d",
    "ends with a backslash\\",
    '\\N \\G \\l \\"',
    "two\nlines\r\n\ttab",
    "[brackets] {braces} (parentheses) |pipes| <angles>",
    '"] --> n0["',
    "end",
    "graph TD; subgraph x",
    "%%{init: {'theme': 'dark'}}%%",
    "%% no comment",
    "style n0 fill:#f00; classDef a fill:#0f0;",
    'click n0 href "javascript:alert(1)"',
    "&amp; &lt;b&gt; &#60; #35; #quot; #lt;i#gt;",
    "ﬂ°°60¶ß",
    "$$\\frac{1}{2}$$ **bold** _slanted_ ~~gone~~ - item",
    "\u202eright to left\u2066",
    "\x1b]52;c;AAAA\x07\x00\x7f\x9b2J",
    "\u2028line\u2029paragraph\ufeff\ufffe\ud800",
    "Größe 数 данные 🚀",
    "{{7*7}} ${7*7} <%= 7*7 %>",
    "x" * 500,
    " ",
    "-",
)
