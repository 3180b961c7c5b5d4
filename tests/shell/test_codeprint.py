"""What a digest of code covers, case by case: an edit in a small project, and what is said to have changed."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_flowforge.codeprint import CodeDigest, CodePrinter, FileCache, explain, reading
from pytest_flowforge.codeprint.reading import read_index
from tests.shell.printing import Files, imported, pick, printed, printed_elsewhere, run_elsewhere, write

HELPERS = """
LIMIT = 3
OTHER = 4


def clean(x):
    return norm(x) + LIMIT


def norm(x):
    return x * 2


def unused(x):
    return x
"""

FLOW = """
import helpers
from helpers import clean


def flow_task(extract, scale=2):
    '''Doc.'''
    total = clean(extract)
    return total * scale


def flow_other():
    return 1
"""

CLASSES = """
class Base:
    factor = 2

    def finish(self, x):
        return x

    def spare(self):
        return 0


class FlowBox(Base):
    limit = 3

    def flow_one(self):
        return self.step(1)

    def flow_two(self):
        return self.finish(1) + super().finish(2)

    def flow_all(self):
        return helper(self)

    def flow_lazy(self):
        return self.made

    def flow_size(self):
        return self.size

    def step(self, x):
        return x + 1

    def set_up(self):
        self.made = 3

    @property
    def size(self):
        return 1

    @size.setter
    def size(self, to):
        self.made = to

    @staticmethod
    def fixed(x):
        return x.step


def helper(box):
    return box


def flow_uses_class():
    return FlowBox().limit
"""

PACKAGE = {
    "pkg/__init__.py": "LEVEL = 1\nfrom .sub import shown\nfrom . import sub as renamed\n",
    "pkg/sub.py": "from . import LEVEL\n\ndef shown():\n    return LEVEL\n\ndef hidden():\n    return 2\n",
    "pkg/deep/__init__.py": "",
    "pkg/deep/more.py": "from ..sub import hidden\n\ndef f():\n    return hidden()\n\ndef g():\n    return 5\n",
    "space/inner.py": "def f():\n    return 6\n\ndef g():\n    return 7\n",
}


def flow(body: str, head: str = "", rest: str = "") -> str:
    return f"{head}\n\ndef flow_task():\n    return {body}\n\n{rest}\n"


#: (what it shows, files, (file, before, after), what is said to have changed, which function)
Case = tuple[str, Files, tuple[str, str, str], str, str]

PLAIN: Files = {"flow_etl.py": FLOW, "helpers.py": HELPERS}
OOP: Files = {"flow_etl.py": CLASSES}


def case(name: str, files: Files, edit: tuple[str, str, str], expected: str, task: str = "flow_task") -> Any:
    return pytest.param(files, edit, expected, task, id=name)


def inline(name: str, source: str, edit: tuple[str, str], expected: str, task: str = "flow_task") -> Any:
    """A case in one file; what changes is named without the file."""
    told = ", ".join(f"flow_etl.py::{one}" for one in expected.split(", ")) if expected else ""
    return case(name, {"flow_etl.py": source}, ("flow_etl.py", *edit), told, task)


DECORATED = """
import functools
import pytest
from pytest import mark

slow = pytest.mark.xfail
named = mark.skip('3')


def times(n):
    cache = {}

    def wrap(function):
        @functools.wraps(function)
        def inner(*args):
            return function(*args) * n
        return inner
    return wrap


def other(function):
    return function


@DECORATOR
def flow_task():
    return 1
"""


TWO_BASES = """
class B:
    def h(self):
        return 1

class C:
    def h(self):
        return 2

class Flow(B, C):
    def flow_x(self):
        return self.h()
"""

#: Not run: without flows nobody has registered the mark.
GUARDED = """
if __debug__ is None:
    @depends_on(ff)
    def h(): ...
"""


def decorated(name: str, before: str, after: str, expected: str) -> Any:
    source = DECORATED.replace("DECORATOR", before)
    return inline(f"decorator, {name}", source, (f"@{before}\n", f"@{after}\n" if after else ""), expected)


CASES = [
    # What does not count.
    case("comment", PLAIN, ("helpers.py", "    return norm", "    # why\n    return norm"), ""),
    case("docstring", PLAIN, ("flow_etl.py", "'''Doc.'''", "'''Another.'''"), ""),
    case("docstring of a helper", PLAIN, ("helpers.py", "def norm(x):", "def norm(x):\n    'Doc.'"), ""),
    case("no docstring any more", PLAIN, ("flow_etl.py", "    '''Doc.'''\n", ""), ""),
    case("formatting", PLAIN, ("helpers.py", "norm(x) + LIMIT", "(\n        norm( x )\n        + LIMIT)"), ""),
    case("literals written otherwise", PLAIN, ("helpers.py", "LIMIT = 3", "LIMIT = 0x3"), ""),
    case("unrelated function", PLAIN, ("helpers.py", "    return x\n", "    return x + 1\n"), ""),
    case("unrelated function added", PLAIN, ("helpers.py", "LIMIT = 3", "def new(): ...\n\nLIMIT = 3"), ""),
    case("unrelated constant", PLAIN, ("helpers.py", "OTHER = 4", "OTHER = 5"), ""),
    case("unrelated task", PLAIN, ("flow_etl.py", "return 1", "return 2"), ""),
    case("unused import", PLAIN, ("flow_etl.py", "import helpers\n", "import helpers, math\n"), ""),
    inline("docstring only", "def flow_task():\n    'doc'\n", ("'doc'", "pass"), ""),
    inline("pass", flow("f()", rest="class f:\n    x = 1\n"), ("    x = 1", "    x = 1\n    pass"), ""),
    inline("annotation of a parameter", "def flow_task(a: int):\n    return a\n", ("int", "str"), "flow_task changed"),
    # What counts.
    case("body", PLAIN, ("flow_etl.py", "total * scale", "total + scale"), "flow_etl.py::flow_task changed"),
    case("default value", PLAIN, ("flow_etl.py", "scale=2", "scale=3"), "flow_etl.py::flow_task changed"),
    case("helper", PLAIN, ("helpers.py", "norm(x) + LIMIT", "norm(x) - LIMIT"), "helpers.py::clean changed"),
    case("helper's helper", PLAIN, ("helpers.py", "x * 2", "x * 3"), "helpers.py::norm changed"),
    case("constant", PLAIN, ("helpers.py", "LIMIT = 3", "LIMIT = 3.0"), "helpers.py::LIMIT changed"),
    case("constant of another type", PLAIN, ("helpers.py", "LIMIT = 3", "LIMIT = True"), "helpers.py::LIMIT changed"),
    case(
        "local variable renamed",
        PLAIN,
        ("flow_etl.py", "total = clean(extract)\n    return total", "t = clean(extract)\n    return t"),
        "flow_etl.py::flow_task changed",
    ),
    case(
        "helper no longer reached",
        PLAIN,
        ("helpers.py", "norm(x) + LIMIT", "x + LIMIT"),
        "helpers.py::clean changed, helpers.py::norm removed",
    ),
    case(
        "another constant reached",
        PLAIN,
        ("helpers.py", "norm(x) + LIMIT", "norm(x) + LIMIT + OTHER"),
        "helpers.py::OTHER added, helpers.py::clean changed",
    ),
    case(
        "same word, another meaning",
        {**PLAIN, "util.py": HELPERS},
        ("flow_etl.py", "from helpers import clean", "from util import clean"),
        "flow_etl.py::flow_task changed, helpers.py::LIMIT removed, helpers.py::clean removed, helpers.py::norm removed"
        ", util.py::LIMIT added, util.py::clean added, util.py::norm added",
    ),
    inline("async", flow("1"), ("def flow_task", "async def flow_task"), "flow_task changed"),
    inline("outside names", flow("np.x", "import math as np"), ("math", "cmath"), "flow_task changed"),
    inline("outside, from", flow("f(1)", "from math import cos as f"), ("cos", "sin"), "flow_task changed"),
    inline(
        "built-in shadowed",
        flow("len('')"),
        ("\n\ndef", "def len(x):\n    return 1\n\n\ndef"),
        "flow_task changed, len added",
    ),
    # Ways to reach something.
    *[
        inline(f"reached by {name}", flow(body, rest="def f(x=0):\n    return [x, 5]\n"), ("x, 5", "x, 6"), "f changed")
        for name, body in {
            "a lambda": "(lambda y: f(y))(1)",
            "a lambda's default": "(lambda y=f(): y)()",
            "a comprehension": "[f(x) for x in [1]]",
            "a condition of it": "{x: 1 for x in [1] if f(x)}",
            "what it runs over": "[f for f in f()]",
            "a generator": "sum(f(x)[0] for x in [1] for y in [x])",
            "an f-string": "f'{f(1)!r:>{f(2)[0]}}'",
            "a name in parentheses": "(g := f) and g(1)",
            "getattr of the name": "getattr(f, '__name__')",
            "an await": "(lambda: [f])",
            "globals()": "globals()['f'](1)",
            "eval": "eval('f(1)')",
        }.items()
    ],
    *[
        inline(f"not reached by {name}", flow(body, rest="def f(x=0):\n    return [x, 5]\n"), ("x, 5", "x, 6"), "")
        for name, body in {
            "a parameter of that name": "(lambda f: f)(1)",
            "a loop over that name": "[f for f in [1]]",
            "an attribute of that name": "[].f",
            "a keyword of that name": "dict(f=1)",
            "a string of that name": "'f'",
        }.items()
    ],
    *[
        inline(f"reached by {name}", f"{source}\n\ndef f(x=0):\n    return [x, 5]\n", ("x, 5", "x, 6"), "f changed")
        for name, source in {
            "a nested function": "def flow_task():\n    def g(y):\n        return f(y)\n    return g",
            "a default, late": "def flow_task():\n    def g(y=lambda: f):\n        return y\n    return g",
            "a global": "def flow_task():\n    f = 1\n    def g():\n        global f\n        f(2)\n    return g",
            "a class inside": "def flow_task():\n    class C:\n        f = 1\n        def m(self):\n            f()\n",
            "a handler": "def flow_task():\n    try:\n        g = 1\n    except f:\n        g = 2",
            "a pattern": "def flow_task(x):\n    match x:\n        case {'k': f.a, **rest}:\n            return rest",
            "a deletion": "def flow_task():\n    del f.x",
            "an assignment to its attribute": "def flow_task():\n    f.calls = 1",
        }.items()
    ],
    *[
        inline(f"not reached by {name}", f"{source}\n\ndef f(x=0):\n    return [x, 5]\n", ("x, 5", "x, 6"), "")
        for name, source in {
            "a parameter": "def flow_task(f):\n    return f",
            "any parameter": "def flow_task(*f, a=1, **g):\n    return f",
            "a local variable": "def flow_task():\n    f = 1\n    return f",
            "a variable around": "def flow_task():\n    f = 1\n    def g():\n        nonlocal f\n        return f\n",
            "an exception": "def flow_task():\n    try:\n        pass\n    except OSError as f:\n        return f",
            "a captured pattern": "def flow_task(x):\n    match x:\n        case [f, *g]:\n            return f, g",
            "a local import": "def flow_task():\n    from math import cos as f\n    return f",
        }.items()
    ],
    # Constants.
    inline("constant's expression", flow("A", "B = 1\nC = 2\nA = [B, 1]"), ("B = 1", "B = 2"), "B changed"),
    inline("constant unpacked", flow("A", "A, B = 1, 2"), ("1, 2", "1, 3"), "A changed"),
    inline("constant annotated", flow("A", "A: int = 1"), ("= 1", "= 2"), "A changed"),
    inline("constant added to", flow("A", "A = 1\nA += 1"), ("+= 1", "+= 2"), "A changed"),
    inline("constant's item", flow("A", "A = {}\nA['x'] = 1"), ("= 1", "= 2"), "A changed"),
    inline("constant's method", flow("A", "A = []\nA.append(1)\nB = []"), ("append(1)", "append(2)"), "A changed"),
    inline("another's method", flow("A", "A = []\nB = []\nB.append(1)"), ("append(1)", "append(2)"), ""),
    inline("filled by a call", flow("A", "A = []\ndef fill(a, n): ...\nfill(A, 1)"), ("A, 1", "A, 2"), "A changed"),
    inline(
        "filled in a loop", flow("A", "A = []\nfor x in [1]:\n    A.append(x)"), ("[1]", "[2]"), "A changed, x changed"
    ),
    inline(
        "under a condition", flow("A", "B = 1\nif B:\n    A = 1\nelse:\n    A = 2"), ("B = 1", "B = 0"), "B changed"
    ),
    inline("other branch", flow("A", "if 1:\n    A = 1\nelse:\n    A = 2"), ("A = 2", "A = 3"), "A changed"),
    inline("with", flow("A", "import io\nwith io.StringIO('1') as A:\n    B = 1"), ("'1'", "'2'"), "A changed"),
    inline("try", flow("A", "try:\n    A = 1\nexcept OSError:\n    A = 2"), ("OSError", "KeyError"), "A changed"),
    inline("while", flow("A", "A = 0\nwhile A < 3:\n    A += 1"), ("< 3", "< 4"), "A changed"),
    inline("main", flow("A", "A = 0", "if __name__ == '__main__':\n    A = 1"), ("A = 1", "A = 2"), ""),
    inline("match", flow("A", "match 1:\n    case 1:\n        A = 1"), ("A = 1", "A = 2"), "A changed"),
    inline("named in an expression", flow("A", "B = 1\nC = (A := B)"), ("B = 1", "B = 2"), "B changed"),
    inline("named in a condition", flow("A", "if (A := [1]):\n    B = 1"), ("[1]", "[2]"), "A changed"),
    inline("large number", flow("A", "A = 0x" + "f" * 9000 + "1"), ("f1", "f2"), "A changed"),
    inline("lone surrogate", flow("A", r"A = '\ud800'"), ("d800", "d801"), "A changed"),
    inline(
        "instance of a class",
        flow("A.m()", "class C:\n    def m(self):\n        return 1\nA = C()"),
        ("return 1", "return 2"),
        "C.m changed",
    ),
    inline(
        "registry",
        flow(
            "R",
            "import functools\nclass Reg:\n    def add(self, f):\n        return f\nR = Reg()\n"
            "@R.add\ndef g():\n    return 1\n",
        ),
        ("return 1", "return 2"),
        "R changed",
    ),
    inline(
        "single dispatch",
        flow(
            "h(1)",
            "import functools\n@functools.singledispatch\ndef h(x):\n    return 0\n"
            "@h.register\ndef _(x: int):\n    return 1\n",
        ),
        ("return 1", "return 2"),
        "h changed",
    ),
    inline(
        "definition by condition",
        flow("f()", "if 1:\n    def f():\n        return 1\nelse:\n    def f():\n        return 2"),
        ("return 2", "return 3"),
        "f changed",
    ),
    inline(
        "recursion",
        flow("f()", rest="def f():\n    return g\n\ndef g():\n    return f, 1\n"),
        ("f, 1", "f, 2"),
        "g changed",
    ),
    inline("itself", "def flow_task():\n    return flow_task, 1\n", ("k, 1", "k, 2"), "flow_task changed"),
    # Decorators.
    decorated("mark", "pytest.mark.skip('3')", "pytest.mark.skip('4')", ""),
    decorated("mark gone", "pytest.mark.xfail", "", ""),
    decorated("mark, imported", "mark.xfail", "mark.skip", ""),
    decorated("mark by a name of its own", "slow", "named", ""),
    decorated("mark by a name with arguments", "slow('a')", "slow('b')", ""),
    inline(
        "decorator, depends_on",
        flow("h", f"import pytest_flowforge as ff\nfrom pytest_flowforge import depends_on\n{GUARDED}"),
        ("@depends_on(ff)", "@ff.depends_on(1)"),
        "",
    ),
    decorated("parametrize", "pytest.mark.parametrize('x', [1])", "pytest.mark.parametrize('x', [2])", ""),
    decorated("arguments", "times(2)", "times(3)", "flow_task changed"),
    decorated("from outside", "functools.cache", "functools.lru_cache", "flow_task changed"),
    decorated("expression", "(lambda f: f)", "(lambda f: f or f)", "flow_task changed"),
    decorated("another", "times(2)", "other", "flow_task changed, other added, times removed"),
    inline("decorator's body", DECORATED.replace("DECORATOR", "times(2)"), ("* n", "+ n"), "times changed"),
    inline("decorator's unused body", DECORATED.replace("DECORATOR", "other"), ("* n", "+ n"), ""),
    inline(
        "wrapped without decorator",
        DECORATED.replace("@DECORATOR\ndef flow_task", "def impl") + "\nflow_task = times(2)(impl)\n",
        ("return 1", "return 2"),
        "impl changed",
    ),
    inline(
        "wrapper without decorator",
        DECORATED.replace("@DECORATOR\ndef flow_task", "def impl") + "\nflow_task = times(2)(impl)\n",
        ("* n", "+ n"),
        "times changed",
    ),
    inline(
        "closure",
        DECORATED.replace("@DECORATOR\ndef flow_task", "def impl") + "\nflow_task = times(2)(impl)\n",
        ("times(2)", "times(3)"),
        "times[n] changed",
    ),
    inline(
        "function from a factory",
        "def make(n, d):\n    def flow_task(x=d):\n        return n, x\n    return flow_task\nflow_task = make(1, 2)\n",
        ("1, 2", "1, 3"),
        "make[0] changed",
    ),
    case(
        "partial",
        {"flow_etl.py": "import functools\ndef f(a, b):\n    return a\nflow_task = functools.partial(f, 1, b=2)\n"},
        ("flow_etl.py", "b=2", "b=3"),
        "partial[b] changed",
    ),
    inline(
        "partial's function",
        "import functools\ndef f(a):\n    return a\nflow_task = functools.partial(f, 1)\n",
        ("return a", "return -a"),
        "f changed",
    ),
    inline("lambda", "flow_task = lambda x: x + 1\n", ("+ 1", "+ 2"), "flow_task changed"),
    inline(
        "cached helper",
        "import functools\n\ndef flow_task():\n    return f()\n\n@functools.cache\ndef f():\n    return 5\n",
        ("return 5", "return 6"),
        "f changed",
    ),
    inline(
        "decorator of a nested function",
        "def deco(f):\n    return f\n\ndef flow_task():\n    @deco\n    def g(): ...\n    return g\n",
        ("    return f\n", "    return [f]\n"),
        "deco changed",
    ),
    inline(
        "decorator moved to another definition",
        flow("f", "import functools\nif 1:\n    @functools.cache\n    def f(): ...\nelse:\n    def f(): ...\n"),
        ("    @functools.cache\n    def f(): ...\nelse:\n", "    def f(): ...\nelse:\n    @functools.cache\n"),
        "f changed",
    ),
    # Classes.
    inline("first of two bases", TWO_BASES, ("return 1", "return 3"), "B.h changed", "Flow.flow_x"),
    inline("second of two bases", TWO_BASES, ("return 2", "return 3"), "", "Flow.flow_x"),
    case(
        "method by self",
        OOP,
        ("flow_etl.py", "x + 1", "x + 2"),
        "flow_etl.py::FlowBox.step changed",
        "FlowBox.flow_one",
    ),
    case("unused method", OOP, ("flow_etl.py", "return 0", "return 2"), "", "FlowBox.flow_one"),
    case("other task of the class", OOP, ("flow_etl.py", "self.finish(1)", "self.finish(2)"), "", "FlowBox.flow_one"),
    case(
        "attribute of the class",
        OOP,
        ("flow_etl.py", "limit = 3", "limit = 4"),
        "flow_etl.py::FlowBox changed",
        "FlowBox.flow_one",
    ),
    case(
        "attribute of the base",
        OOP,
        ("flow_etl.py", "factor = 2", "factor = 4"),
        "flow_etl.py::Base changed",
        "FlowBox.flow_one",
    ),
    case(
        "method of the base",
        OOP,
        ("flow_etl.py", "return x\n\n    def spare", "return -x\n\n    def spare"),
        "flow_etl.py::Base.finish changed",
        "FlowBox.flow_two",
    ),
    case(
        "overridden",
        OOP,
        ("flow_etl.py", "    def step", "    def finish(self, x):\n        return 9\n\n    def step"),
        "flow_etl.py::FlowBox.finish added",
        "FlowBox.flow_two",
    ),
    case(
        "another base",
        OOP,
        ("flow_etl.py", "FlowBox(Base)", "FlowBox"),
        "flow_etl.py::Base removed, flow_etl.py::Base.finish removed, flow_etl.py::FlowBox changed",
        "FlowBox.flow_two",
    ),
    case(
        "attribute set elsewhere",
        OOP,
        ("flow_etl.py", "self.made = 3", "self.made = 4"),
        "flow_etl.py::FlowBox.set_up changed",
        "FlowBox.flow_lazy",
    ),
    case(
        "property and setter",
        OOP,
        ("flow_etl.py", "self.made = to", "self.made = -to"),
        "flow_etl.py::FlowBox.size changed",
        "FlowBox.flow_size",
    ),
    case(
        "self handed on",
        OOP,
        ("flow_etl.py", "x + 1", "x + 2"),
        "flow_etl.py::FlowBox.step changed",
        "FlowBox.flow_all",
    ),
    case("whole class", OOP, ("flow_etl.py", "x + 1", "x + 2"), "flow_etl.py::FlowBox.step changed", "flow_uses_class"),
    case(
        "whole class, its base",
        OOP,
        ("flow_etl.py", "return 0", "return 1"),
        "flow_etl.py::Base.spare changed",
        "flow_uses_class",
    ),
    case(
        "docstring of a class",
        OOP,
        ("flow_etl.py", "    limit = 3", "    'Doc.'\n    limit = 3"),
        "",
        "flow_uses_class",
    ),
    inline(
        "fields in another order",
        flow("C", "class C:\n    a: int\n    b: int"),
        ("    a: int\n    b: int", "    b: int\n    a: int"),
        "C changed",
    ),
    inline(
        "methods in another order",
        flow("C", "class C:\n    def a(self): ...\n    def b(self): ..."),
        ("    def a(self): ...\n    def b(self): ...", "    def b(self): ...\n    def a(self): ..."),
        "",
    ),
    inline(
        "a class in a class",
        flow("C", "class C:\n    class D:\n        def a(self):\n            return 1"),
        ("return 1", "return 2"),
        "C changed",
    ),
    inline(
        "decorator of a class",
        flow("C", "import dataclasses\n@dataclasses.dataclass(order=True)\nclass C:\n    a: int = 1"),
        ("order=True", "order=False"),
        "C changed",
    ),
    inline(
        "keyword of a class",
        flow("C", "class M:\n    def __init_subclass__(cls, n): ...\nclass C(M, n=1): ..."),
        ("n=1", "n=2"),
        "C changed",
    ),
    inline(
        "what Python calls",
        "class Flow:\n    def __getattr__(self, n):\n        return 1\n    def flow_x(self):\n        return self.y\n",
        ("return 1", "return 2"),
        "Flow.__getattr__ changed",
        "Flow.flow_x",
    ),
    inline(
        "method used by the class",
        "class Flow:\n    def get(self):\n        return 1\n    y = property(get)\n"
        "    def flow_x(self):\n        return self.y\n",
        ("return 1", "return 2"),
        "Flow.get changed",
        "Flow.flow_x",
    ),
    inline(
        "inherited task, own helper",
        "class Base:\n    def flow_x(self):\n        return self.h()\n    def h(self):\n"
        "        return 0\n\nclass Flow(Base):\n    def h(self):\n        return 1\n",
        ("return 1", "return 2"),
        "Flow.h changed",
        "Flow.flow_x",
    ),
    inline(
        "inherited task, other helper",
        "class Base:\n    def flow_x(self):\n        return self.h()\n    def h(self):\n"
        "        return 0\n\nclass Flow(Base):\n    def h(self):\n        return 1\n",
        ("return 0", "return 2"),
        "",
        "Flow.flow_x",
    ),
    inline(
        "diamond",
        "class A:\n    def h(self):\n        return 0\nclass B(A): ...\nclass C(A):\n    def h(self):\n"
        "        return 1\nclass Flow(B, C):\n    def flow_x(self):\n        return self.h()\n",
        ("return 1", "return 2"),
        "C.h changed",
        "Flow.flow_x",
    ),
    inline(
        "diamond, not the top",
        "class A:\n    def h(self):\n        return 0\nclass B(A): ...\nclass C(A):\n    def h(self):\n"
        "        return 1\nclass Flow(B, C):\n    def flow_x(self):\n        return self.h()\n",
        ("return 0", "return 2"),
        "",
        "Flow.flow_x",
    ),
    inline(
        "static method",
        "class Flow:\n    @staticmethod\n    def h(x):\n        return 1\n    def flow_x(self):\n"
        "        return self.h(1)\n",
        ("return 1", "return 2"),
        "Flow.h changed",
        "Flow.flow_x",
    ),
    # Across files.
    *[
        case(
            f"across files: {name}",
            {**PACKAGE, "flow_etl.py": flow(body, head)},
            ("pkg/sub.py", "return 2", "return 3"),
            "pkg/sub.py::hidden changed" if reached else "",
        )
        for name, head, body, reached in [
            ("import as", "import pkg.sub as s", "s.hidden()", True),
            ("import with dots", "import pkg.sub", "pkg.sub.hidden()", True),
            ("another of it", "import pkg.sub", "pkg.sub.shown()", False),
            ("from package", "from pkg import sub", "sub.hidden()", True),
            ("name in the package", "import pkg", "pkg.renamed.hidden()", True),
            ("re-export", "import pkg", "pkg.shown()", False),
            ("from a module below", "from pkg.deep.more import f", "f()", True),
            ("from a module below, another", "from pkg.deep.more import g", "g()", False),
            ("whole module below", "import pkg.deep.more as m", "getattr(m, 'f')()", True),
            (
                "in a condition",
                "try:\n    from pkg.sub import hidden\nexcept ImportError:\n    hidden = None",
                "hidden",
                True,
            ),
            ("star", "from pkg.sub import *", "hidden()", True),
            ("star, another", "from pkg.sub import *", "shown()", False),
            ("only imported", "import pkg.sub", "1", False),
            ("module as a value", "import pkg.sub as s\nM = [s]", "M", True),
        ]
    ],
    case(
        "namespace package",
        {**PACKAGE, "flow_etl.py": flow("space.inner.f()", "import space.inner")},
        ("space/inner.py", "return 6", "return 8"),
        "space/inner.py::f changed",
    ),
    case(
        "namespace package, from",
        {**PACKAGE, "flow_etl.py": flow("inner.f()", "from space import inner")},
        ("space/inner.py", "return 6", "return 8"),
        "space/inner.py::f changed",
    ),
    case(
        "namespace package, another",
        {**PACKAGE, "flow_etl.py": flow("space.inner.f()", "import space.inner")},
        ("space/inner.py", "return 7", "return 8"),
        "",
    ),
    case(
        "local import",
        {**PACKAGE, "flow_etl.py": "def flow_task():\n    from pkg.deep.more import g\n    return g()\n"},
        ("pkg/deep/more.py", "return 5", "return 8"),
        "pkg/deep/more.py::g changed",
    ),
    case(
        "local import of a module",
        {**PACKAGE, "flow_etl.py": "def flow_task():\n    import pkg.deep.more\n    return pkg.deep.more.g()\n"},
        ("pkg/deep/more.py", "return 5", "return 8"),
        "pkg/deep/more.py::g changed",
    ),
    case(
        "import for type checkers",
        {
            **PACKAGE,
            "flow_etl.py": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from nowhere import T\n\ndef flow_task(x: T):\n    return x\n",
        },
        ("pkg/sub.py", "return 2", "return 3"),
        "",
    ),
    case(
        "import cycle",
        {
            "flow_etl.py": "import a\n\ndef flow_task():\n    return a.f()\n",
            "a.py": "import b\n\ndef f():\n    return b.g()\n\ndef h():\n    return 1\n",
            "b.py": "import a\n\ndef g():\n    return a.h()\n",
        },
        ("a.py", "return 1", "return 2"),
        "a.py::h changed",
    ),
    case(
        "names that go round in circles",
        {
            "flow_etl.py": flow("x", "try:\n    from a import x\nexcept ImportError:\n    x = 1"),
            "a.py": "from b import x\n",
            "b.py": "from a import x\n",
        },
        ("flow_etl.py", "x = 1", "x = 2"),
        "flow_etl.py::x changed",
    ),
    case(
        "lazy attribute of a module",
        {"flow_etl.py": flow("a.anything", "import a"), "a.py": "def __getattr__(name):\n    return 1\n"},
        ("a.py", "return 1", "return 2"),
        "a.py::__getattr__ changed",
    ),
    case(
        "mark from another file",
        {
            "flow_etl.py": flow("1", "from marks import slow\n\n@slow"),
            "marks.py": "import pytest\nslow = pytest.mark.xfail\n",
        },
        ("marks.py", "mark.xfail", "mark.skip"),
        "",
    ),
    # What no file knows.
    inline(
        "built by exec",
        "exec('def flow_task():\\n    return 1')\n",
        ("return 1", "return 2"),
        "flow_task (bytecode) changed",
    ),
    inline(
        "built by exec, reached",
        flow("made()", "exec('def made():\\n    return 1 + n')\nn = 3\n"),
        ("return 1", "return 2"),
        "made (bytecode) changed",
    ),
    inline(
        "built by exec, what it reaches",
        flow("made()", "exec('def made():\\n    return h()')\ndef h():\n    return 1\n"),
        ("return 1", "return 2"),
        "h changed",
    ),
    inline(
        "built by exec, operators",
        "exec('def flow_task(a):\\n    return a + a')\n",
        ("a + a", "a - a"),
        "flow_task (bytecode) changed",
    ),
    inline("built by exec, docstring", "exec('def flow_task(a):\\n    \"doc\"\\n    return 3')\n", ("doc", "dog"), ""),
    inline(
        "put into the module", flow("LIMIT", "globals().update(LIMIT={'a': 1})"), ("'a': 1", "'a': 2"), "LIMIT changed"
    ),
    inline("type()", flow("C", "C = type('C', (), {'x': 1})"), ("'x': 1", "'x': 2"), "C changed"),
]


@pytest.mark.parametrize(("files", "edit", "expected", "task"), CASES)
def test_an_edit(tmp_path: Path, files: Files, edit: tuple[str, str, str], expected: str, task: str) -> None:
    before = printed(write(tmp_path, files), task)
    name, old, new = edit
    assert old in files[name]
    write(tmp_path, {name: files[name].replace(old, new)})
    after = printed(tmp_path, task)
    assert explain(before.parts, after.parts) == expected
    assert (before.value == after.value) == (not expected)
    write(tmp_path, files)
    assert printed(tmp_path, task) == before


EVERYTHING: Files = {
    **PACKAGE,
    "helpers.py": HELPERS,
    "flow_etl.py": f"""
import functools, os, re
import pkg.sub
from helpers import clean
{CLASSES}
KINDS = {{"a", "b", "c", "d", "e"}}
TABLE = {{1: frozenset(KINDS)}}
exec("def made(x):\\n    return x in {{'one', 'two', 'three', 'four'}} and clean(x)")
globals().update(INJECTED={{"a", "b", "c"}}, OBJECT=object(), LOCK=__import__("threading").Lock())


def make(*values):
    known = set(values)

    def flow_made(x=frozenset(values)):
        return x, known, os.path.join("a"), object
    return flow_made


flow_made = make("x", "y", "z", b"z")
flow_partial = functools.partial(make, "p", key=object())


def flow_task():
    def inner(a, b, c):
        return [made(x) for x in KINDS if x in TABLE], INJECTED, OBJECT, LOCK, re.compile("a"), pkg.sub.hidden()
    return inner


@functools.lru_cache(maxsize=None)
def flow_cached():
    return flow_task, flow_cached, FlowBox
""",
}
NAMES = ["flow_task", "flow_made", "flow_partial", "flow_cached", "made", "FlowBox.flow_one", "FlowBox.flow_all"]


def test_the_same_in_every_process_folder_and_working_directory(tmp_path: Path) -> None:
    here, there = write(tmp_path / "here", EVERYTHING), write(tmp_path / "far" / "away" / "there", EVERYTHING)
    first = printed_elsewhere(here, *NAMES, seed="0", cwd=tmp_path)
    assert set(first) == set(NAMES)
    assert printed_elsewhere(here, *NAMES, seed="1", cwd=here) == first
    assert printed_elsewhere(there, *NAMES, seed="random", cwd=there.parent) == first
    assert printed_elsewhere(there, *reversed(NAMES), seed="77", cwd=here) == first
    assert {name: [one.value, dict(one.parts)] for name in NAMES for one in [printed(there, name)]} == first
    assert str(tmp_path) not in repr(first)
    assert {file.partition("::")[0] for one in first.values() for file in one[1]} >= {"flow_etl.py", "pkg/sub.py"}


def test_the_order_of_questions_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, EVERYTHING)
    with imported(tmp_path, "flow_etl") as module:
        forth, back = CodePrinter([tmp_path]), CodePrinter([tmp_path])
        told = {name: forth.digest(pick(module, name)) for name in NAMES}
        assert {name: back.digest(pick(module, name)) for name in reversed(NAMES)} == told
        assert {name: forth.digest(pick(module, name)) for name in NAMES} == told


def test_what_is_asked_for_besides_counts_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    with imported(tmp_path, "flow_etl") as module:
        printer = CodePrinter([tmp_path])
        plain = printer.digest(module.flow_other)
        both = printer.digest(module.flow_other, also=[module.helpers.norm, module.helpers.unused])
        assert printer.digest(module.flow_other, also=[module.helpers.unused, module.helpers.norm]) == both
        assert explain(plain.parts, both.parts) == "helpers.py::norm added, helpers.py::unused added"
        assert plain.value != both.value
        assert printer.digest(module.flow_other, also=[]) == plain
        assert printer.digest(module.helpers.norm, also=[module.flow_other]).value != plain.value


def test_a_fixture_counts_with_its_helpers_and_its_decorator(tmp_path: Path) -> None:
    source = "import pytest\n\ndef h():\n    return 1\n\ndef flow_x(): ...\n"
    source += "\n@pytest.fixture(scope='module')\ndef box():\n    return h()\n"

    def told() -> CodeDigest:
        with imported(tmp_path, "flow_etl") as module:
            return CodePrinter([tmp_path]).digest(module.flow_x, also=[module.box])

    write(tmp_path, {"flow_etl.py": source})
    before = told()
    assert {"flow_etl.py::box", "flow_etl.py::h"} <= set(before.parts)
    write(tmp_path, {"flow_etl.py": source.replace("return 1", "return 2")})
    assert explain(before.parts, told().parts) == "flow_etl.py::h changed"
    write(tmp_path, {"flow_etl.py": source.replace("'module'", "'session'")})
    assert explain(before.parts, told().parts) == "flow_etl.py::box changed"


class Callable:
    """Neither function nor class."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.itself = self

    def __call__(self) -> int:
        return self.number


def one_of_two(a: int, b: int) -> int:
    return a or b


class Answering:
    """Has every attribute, of which none is of use."""

    def __getattr__(self, name: str) -> Any:
        return Answering()

    def __call__(self) -> None: ...


class Raising(Callable):
    @property
    def __wrapped__(self) -> Any:
        message = "no"
        raise RuntimeError(message)


@functools.wraps(len)
def wraps_a_builtin() -> None: ...


def wraps_itself() -> None: ...


wraps_itself.__dict__["__wrapped__"] = wraps_itself


@pytest.mark.parametrize(
    "odd",
    [
        len,
        [].append,
        str.upper,
        int,
        dict.fromkeys,
        functools.partial(print, 1, end=threading.Lock()),
        functools.partial(functools.partial(one_of_two, 1), 2),
        Callable(),
        Callable().__call__,
        Answering(),
        Raising(),
        wraps_a_builtin,
        wraps_itself,
        functools.lru_cache(Callable()),
        functools.singledispatch(len),
        type("Made", (), {"method": lambda self: self}),
        eval("lambda: 1"),  # noqa: S307 - a function without a file is what is wanted
        pytest.fixture(lambda: 1),
        pytest,
        None,
        3,
        threading.Lock(),
        sys.implementation,
    ],
    ids=lambda odd: type(odd).__name__,
)
def test_anything_has_a_digest(odd: Any) -> None:
    for roots in ([], [Path(__file__).parent], [Path("/")]):
        told = CodePrinter(roots).digest(odd)
        assert len(told.value) == 32
        assert CodePrinter(roots).digest(odd) == told
        # No address is in them, which another process would not have. What folders are called is no matter.
        assert all("0x" not in key.rpartition("/")[2] for key in told.parts)


def test_objects_with_other_attributes_differ() -> None:
    printer = CodePrinter([Path(__file__).parent])
    assert printer.digest(Callable(1)).value != printer.digest(Callable(2)).value
    assert printer.digest(Callable(1)).value == CodePrinter([Path(__file__).parent]).digest(Callable(1)).value
    assert any(key.endswith("::Callable.__call__") for key in printer.digest(Callable(1)).parts)


def test_what_is_installed_is_only_a_name(tmp_path: Path) -> None:
    root = write(tmp_path, PLAIN)
    for folder in (".venv/lib", "vendor/site-packages"):
        write(root, {f"{folder}/installed.py": "def f():\n    return 1\n"})
    write(root, {".venv/pyvenv.cfg": "", "flow_etl.py": flow("installed.f()", "import installed")})
    told = []
    for folder in (".venv/lib", "vendor/site-packages"):
        for number in (1, 2):
            write(root, {f"{folder}/installed.py": f"def f():\n    return {number}\n"})
            with imported(root / folder, "installed"), imported(root, "flow_etl") as module:
                told.append(CodePrinter([root]).digest(module.flow_task))
    assert told[1:] == told[:-1]
    assert list(told[0].parts) == ["flow_etl.py::flow_task"]


def test_several_roots_have_names_of_their_own(tmp_path: Path) -> None:
    flows = write(tmp_path / "flows", {"flow_etl.py": flow("shared.f(), more.f()", "import shared, more")})
    write(tmp_path / "a" / "lib", {"shared.py": "def f():\n    return 1\n"})
    write(tmp_path / "b" / "lib", {"more.py": "def f():\n    return 1\n"})
    roots = [flows, tmp_path / "a" / "lib", tmp_path / "b" / "lib"]
    with imported(roots[1], "shared"), imported(roots[2], "more"), imported(flows, "flow_etl") as module:
        parts = CodePrinter(roots).digest(module.flow_task).parts
    assert set(parts) == {"flow_etl.py::flow_task", "lib:shared.py::f", "2:lib:more.py::f"}


def test_a_task_outside_of_all_roots_is_covered_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "out", {"flow_etl.py": "A = 1\n\ndef flow_task():\n    return A\n"})
    with imported(tmp_path / "out", "flow_etl") as module:
        for roots in ([], [tmp_path / "in"]):
            parts = CodePrinter(roots).digest(module.flow_task).parts
            assert set(parts) == {"flow_etl.py::flow_task", "flow_etl.py::A"}


def test_a_link_to_the_project_is_the_project(tmp_path: Path) -> None:
    write(tmp_path / "real", PLAIN)
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert printed(tmp_path / "link") == printed(tmp_path / "real")


def test_a_file_that_was_changed_after_its_import_still_has_a_digest(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    with imported(tmp_path, "flow_etl") as module:
        write(tmp_path, {"flow_etl.py": "# moved\n" * 30 + FLOW})
        moved = CodePrinter([tmp_path]).digest(module.flow_task)
        write(tmp_path, {"flow_etl.py": "def flow_task(:\n"})
        broken = CodePrinter([tmp_path]).digest(module.flow_task)
        (tmp_path / "flow_etl.py").unlink()
        gone = CodePrinter([tmp_path]).digest(module.flow_task)
    write(tmp_path, PLAIN)
    assert moved == printed(tmp_path)
    assert any("(bytecode)" in key for key in gone.parts)
    assert len({moved.value, broken.value, gone.value}) == 3


def test_files_in_other_encodings_and_with_windows_line_ends(tmp_path: Path) -> None:
    write(tmp_path, {"flow_etl.py": flow("'ä'")})
    plain = printed(tmp_path)
    (tmp_path / "flow_etl.py").write_bytes(("# coding: latin-1\n" + flow("'ä'")).encode("latin-1"))
    assert printed(tmp_path) == plain
    (tmp_path / "flow_etl.py").write_bytes(flow("'ä'").replace("\n", "\r\n").encode("utf-8-sig"))
    assert printed(tmp_path) == plain


def test_warnings_about_a_file_are_not_repeated() -> None:
    assert read_index(b"A = '\\d'\nB = 1 is 1\n") is not None
    assert read_index(b"(" * 100_000) is None
    assert read_index(b"\0") is None


def _told(content: str) -> tuple[object, ...]:
    index = read_index(content.encode())
    assert index is not None
    digests: dict[str, object] = {}
    for name, binding in index.bindings.items():
        definition = binding.shape.as_definition() if binding.shape else binding.definition
        digests[name] = [facts.digest for facts in definition.facts] if definition else binding.imports
    return index.spans, digests


#: Text that looks like a definition but is none, and definitions that belong together.
HARD_TO_CUT = [
    "A = '''\n\ndef f():\n    return 1\n'''\n\ndef g(): ...\n",
    "@g\n\n@h\n\ndef f(): ...\n\ndef k(): ...\n",
    "A = [\n\n]\n\nclass C:\n\n    def f(self): ...\n\nC.x = 1\n\nasync def f(): ...\n",
]


@pytest.mark.parametrize("content", [FLOW, HELPERS, CLASSES, DECORATED.replace("DECORATOR", "other"), *HARD_TO_CUT])
def test_a_file_read_in_pieces_says_the_same(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _told(content)
    monkeypatch.setattr(reading, "_PIECE", 1)
    assert _told(content) == whole


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    cache = FileCache()
    old = time.time() - 60
    for name in PLAIN:
        os.utime(tmp_path / name, (old, old))
    with imported(tmp_path, "flow_etl") as module:
        functions = [module.flow_task, module.flow_other, module.helpers.norm]
        for _ in range(3):
            printer = CodePrinter([tmp_path], files=cache)
            told = [printer.digest(function) for function in functions]
        assert cache.parsed == 2
        write(tmp_path, {"helpers.py": HELPERS.replace("x * 2", "x * 3")})
        again = [CodePrinter([tmp_path], files=cache).digest(function) for function in functions]
        assert cache.parsed == 2 + 2, "flow_task and norm reach it, and what is as fresh as this is not kept"
        assert [explain(one.parts, two.parts) for one, two in zip(told, again, strict=True)] == [
            "helpers.py::norm changed",
            "",
            "helpers.py::norm changed",
        ]
        # What one printer has seen, it stays with.
        assert [printer.digest(function) for function in functions] == told


def test_parts_travel_as_a_plain_dict(tmp_path: Path) -> None:
    told = printed(write(tmp_path, PLAIN))
    copy = pickle.loads(pickle.dumps(told))  # noqa: S301 - our own
    assert copy == told
    assert type(copy.parts) is dict
    assert repr(told.parts) == repr(copy.parts)
    assert list(copy.parts) == sorted(copy.parts)


def test_all_parts_are_those_of_all_digests(tmp_path: Path) -> None:
    write(tmp_path, {**PLAIN, "flow_box.py": CLASSES})
    with imported(tmp_path, "flow_etl") as etl, imported(tmp_path, "flow_box") as box:
        printer = CodePrinter([tmp_path])
        assert printer.parts() == {}
        told = [printer.digest(etl.flow_task), printer.digest(etl.flow_other, [etl.helpers.unused])]
        told += [printer.digest(pick(box, f"FlowBox.{name}")) for name in ("flow_one", "flow_two", "flow_lazy")]
        together = {key: own for one in told for key, own in one.parts.items()}
        assert printer.parts() == together
        assert list(printer.parts()) == sorted(together)
        told.append(printer.digest(box.flow_uses_class))
        assert printer.parts() == {**together, **told[-1].parts}
        assert printer.parts() != together


def test_several_digests_of_one_key_count_together(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    with imported(tmp_path, "flow_etl") as module:
        printer = CodePrinter([tmp_path])
        first, second, third = [functools.partial(module.flow_other, number) for number in range(3)]
        alone = [printer.digest(one).parts["partial[0]"] for one in (first, second)]
        both = CodePrinter([tmp_path]).digest(second, [first]).parts
        assert printer.parts() == both
        assert both["partial[0]"] not in alone
        assert printer.digest(first, [third]).parts != both


#: Functions and classes that reach each other in circles, a value, and a class that is named but not asked for.
CIRCLES = """
import helpers

vars()["made"] = lambda: back


class FlowBox:
    def flow_one(self):
        return self, back, helpers.unused, FlowBox, made, eval("1")

    def fixed(self):
        return self.flow_one()


class FlowRest:
    def flow_two(): ...


def back():
    return forth()


def forth():
    return back(), FlowBox
"""


def _living_parts() -> list[object]:
    """What belongs to printers and is still there."""
    kinds = ("things", "reach", "living", "project", "index", "syntax", "reading")
    modules = {"pytest_flowforge.codeprint", *[f"pytest_flowforge.codeprint.{kind}" for kind in kinds]}
    return [one for one in gc.get_objects() if type(one).__module__ in modules]


def test_nothing_stays_of_a_printer_that_was_closed(tmp_path: Path) -> None:
    write(tmp_path, {"flow_etl.py": CIRCLES, "helpers.py": HELPERS})
    gc.collect()
    gc.disable()
    try:
        with imported(tmp_path, "flow_etl") as module:
            before = len(_living_parts())
            printer = CodePrinter([tmp_path])
            told = [printer.digest(pick(module, name)) for name in ("FlowBox.flow_one", "FlowRest.flow_two", "back")]
            values = [one.value for one in told]
            looked_at = dict(told[0].parts)
            assert "flow_etl.py::made (value)" not in looked_at
            assert {"flow_etl.py::forth", "helpers.py::unused"} < set(looked_at)
            assert len(_living_parts()) > before
            printer.close()
            assert [one.value for one in told] == values
            assert told[0].parts == looked_at
            with pytest.raises(RuntimeError, match="closed before anybody asked for the parts of"):
                dict(told[2].parts)
            assert printer.parts() == {}
            # It begins anew.
            assert printer.digest(module.back).value == values[2]
            printer.close()
            printer.close()
            del printer, told
            assert len(_living_parts()) == before
    finally:
        gc.enable()


def test_what_runs_in_no_circle_needs_no_closing(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    gc.collect()
    gc.disable()
    try:
        with imported(tmp_path, "flow_etl") as module:
            before = len(_living_parts())
            assert CodePrinter([tmp_path]).digest(module.flow_task).parts
            assert len(_living_parts()) == before
    finally:
        gc.enable()


def test_a_function_that_is_looked_at_stays_as_small_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, PLAIN)
    with imported(tmp_path, "flow_etl") as module:
        before = [type(one) for one in gc.get_referents(module.flow_other)]
        CodePrinter([tmp_path]).digest(module.flow_other)
        assert [type(one) for one in gc.get_referents(module.flow_other)] == before


def test_a_long_chain_of_calls_needs_no_recursion_and_no_square_of_its_length(tmp_path: Path) -> None:
    count = 20_000
    lines = [f"def flow_{number}():\n    return flow_{number + 1}()\n" for number in range(count)]
    write(tmp_path, {"flow_etl.py": "\n".join(lines) + f"def flow_{count}(): ...\n"})
    with imported(tmp_path, "flow_etl") as module:
        printer = CodePrinter([tmp_path])
        values = {printer.digest(getattr(module, f"flow_{number}")).value for number in range(count)}
        assert len(values) == count
        assert len(printer.digest(module.flow_0).parts) == count + 1
        assert len(printer.parts()) == count + 1


def test_a_large_circle_of_functions(tmp_path: Path) -> None:
    count = 3_000
    source = "".join(f"def f{n}():\n    return f{(n + 1) % count}, f{(n * 7) % count}\n" for n in range(count))
    write(tmp_path, {"flow_etl.py": source})
    before = printed(tmp_path, "f5")
    assert len(before.parts) == count
    write(tmp_path, {"flow_etl.py": source.replace("f7, f42", "f7, f42, 1")})
    after = printed(tmp_path, "f5")
    assert explain(before.parts, after.parts) == "flow_etl.py::f6 changed"
    assert before.value != after.value
    assert printed(tmp_path, "f9").value != after.value, "each of a circle is a task of its own"


def test_deeply_nested_syntax_needs_no_recursion(tmp_path: Path) -> None:
    write(tmp_path, {"flow_etl.py": flow("x" + ".a" * 500 + " + 1" * 500, "x = 1")})
    assert set(printed(tmp_path).parts) == {"flow_etl.py::flow_task", "flow_etl.py::x"}


def test_a_module_that_would_be_found_is_not_imported(tmp_path: Path) -> None:
    source = "def flow_task():\n    from lazy.part import f\n    return f()\n"
    write(
        tmp_path,
        {"flow_etl.py": source, "lazy/__init__.py": "raise SystemExit\n", "lazy/part.py": "def f():\n    return 1\n"},
    )
    with imported(tmp_path, "flow_etl") as module:
        assert set(CodePrinter([tmp_path]).digest(module.flow_task).parts) == {
            "flow_etl.py::flow_task",
            "lazy/part.py::f",
        }
        assert "lazy" not in sys.modules


def test_whether_a_lazy_import_has_happened_makes_no_difference(tmp_path: Path) -> None:
    source = "def flow_task():\n    from lazy.part import f\n    import lazy.more\n    return f() + lazy.more.g()\n"
    parts = {"lazy/part.py": "def f():\n    return 1\n", "lazy/more.py": "def g():\n    return 1\n"}
    for package in ({}, {"lazy/__init__.py": ""}):
        shutil.rmtree(tmp_path / "lazy", ignore_errors=True)
        write(tmp_path, {"flow_etl.py": source, **parts, **package})
        with imported(tmp_path, "flow_etl") as module:
            before = CodePrinter([tmp_path]).digest(module.flow_task)
            module.flow_task()
            assert CodePrinter([tmp_path]).digest(module.flow_task) == before
        assert set(before.parts) == {"flow_etl.py::flow_task", "lazy/part.py::f", "lazy/more.py::g"}


def test_state_that_a_decorator_keeps_is_not_code(tmp_path: Path) -> None:
    source = DECORATED.replace("DECORATOR", "times(2)").replace(
        "return function(*args) * n", "return cache.setdefault(n, 5)"
    )
    write(tmp_path, {"flow_etl.py": source})
    with imported(tmp_path, "flow_etl") as module:
        before = CodePrinter([tmp_path]).digest(module.flow_task)
        assert module.flow_task() == 5
        assert CodePrinter([tmp_path]).digest(module.flow_task) == before


ASSERTING = """
import sys
from pathlib import Path
import pytest

class Plugin:
    def pytest_collection_modifyitems(self, items):
        from pytest_flowforge.codeprint import CodePrinter
        self.told = {item.name: CodePrinter([Path(sys.argv[1])]).digest(item.function).value for item in items}

plugin = Plugin()
options = ["-q", "-p", "no:cacheprovider", "--collect-only", "--rootdir", sys.argv[1], *sys.argv[2:]]
import contextlib, io, json
with contextlib.redirect_stdout(io.StringIO()):
    pytest.main([*options, "-c", "/dev/null", "-o", "python_files=flow_*.py", "-o", "python_functions=flow_*",
                 "-o", "python_classes=Flow", sys.argv[1]], plugins=[plugin])
print(json.dumps(plugin.told))
"""


def test_collected_by_pytest_with_or_without_rewritten_assertions(tmp_path: Path) -> None:
    source = "def flow_task():\n    assert h(1) == 1, 'no'\n\ndef h(x):\n    assert x\n    return x\n\n"
    source += "class FlowBox:\n    def flow_one(self):\n        assert self.h()\n    def h(self):\n        return 1\n"
    write(tmp_path / "p", {"flow_etl.py": source})
    told = [
        run_elsewhere(ASSERTING, str(tmp_path / "p"), *options, seed="0", cwd=tmp_path)
        for options in ([], ["--assert=plain"], ["--import-mode=importlib"])
    ]
    assert set(told[0]) == {"flow_task", "flow_one"}
    assert told[0] == told[1] == told[2]
    assert told[0]["flow_task"] == printed(tmp_path / "p").value
