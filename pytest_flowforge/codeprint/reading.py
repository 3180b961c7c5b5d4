"""Reading a file: its syntax, piece by piece, turned into an index of what it defines.

The file is parsed, never imported. Facts are worked out at once and the syntax tree is given up: it takes a hundred
times the memory.
"""

from __future__ import annotations

import ast
import gc
import re
import warnings
from importlib.util import decode_source
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.codeprint.index import Binding, ClassShape, Definition, FileIndex, Named
from pytest_flowforge.codeprint.syntax import FunctionNode, class_facts, dotted, facts, imports_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_flowforge.codeprint.index import Span

__all__ = ["read_index"]

#: Under what condition a statement runs: words and expressions, from the outermost on.
_Guards: TypeAlias = "tuple[ast.AST | str, ...]"

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)

#: Characters of source to parse at a time: a syntax tree that fits into the caches of the processor is walked faster.
_PIECE = 20_000

#: Where a file may be cut: before a definition that follows an empty line.
_CUT = re.compile(r"\n\n(?=def |class |async def |@)")


def read_index(content: bytes) -> FileIndex | None:
    """The index of a file with this content; None if it is no Python that this interpreter can read."""
    # A syntax tree is many small objects and no garbage: looking for some among them takes longer than all the rest.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            # Whoever imports the file is told; here a warning would become an error under `-W error`.
            warnings.simplefilter("ignore")
            text = decode_source(content)
            try:
                return _read(_pieces(text))
            except SyntaxError:
                # Perhaps it was cut in the middle of a string.
                return _read([text])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    finally:
        if collecting:
            gc.enable()


def _pieces(text: str) -> list[str]:
    """The text in pieces that can be parsed one by one, if at all: the syntax tree of a large file is very large.

    Each piece but the last ends with a complete statement, or can not be parsed.
    """
    pieces = []
    begin = 0
    while cut := _CUT.search(text, begin + _PIECE):
        pieces.append(text[begin : cut.end()])
        begin = cut.end()
    return [*pieces, text[begin:]]


def _read(pieces: list[str]) -> FileIndex:
    indexing = _Indexing()
    for piece in pieces:
        indexing.add(ast.parse(piece), piece)
        indexing.line += piece.count("\n")
    return indexing.index


class _Indexing:
    def __init__(self) -> None:
        self.index = FileIndex()
        #: How many lines stand before the present piece.
        self.line = 0
        #: The lines of the present piece: syntax trees count in bytes.
        self._lines: list[bytes] = []
        #: Decorators by how they are written: a file may have very many, which are mostly the same few.
        self._decorations: dict[bytes, Named] = {}

    def add(self, tree: ast.Module, text: str) -> None:
        """Take in a piece of the file, the *tree* of *text*."""
        self._lines = text.encode("utf-8", "surrogatepass").split(b"\n")
        pending: list[tuple[_Guards, ast.stmt]] = [((), statement) for statement in tree.body[::-1]]
        while pending:
            guards, statement = pending.pop()
            if isinstance(statement, _DEFINITIONS):
                self._define(guards, statement)
            elif (inside := self._inside(guards, statement)) is not None:
                pending += inside[::-1]
            else:
                self._statement(guards, statement)

    def _inside(self, guards: _Guards, node: ast.stmt) -> list[tuple[_Guards, ast.stmt]] | None:
        """The statements in a compound statement, with what they stand under; None for one that is taken as a whole."""
        if isinstance(node, ast.If):
            self._bind(_stored(node.test), (*guards, node.test))
            return _branches(guards, node)
        if isinstance(node, ast.While):
            return [((*guards, "while", node.test), one) for one in (*node.body, *node.orelse)]
        if isinstance(node, ast.For | ast.AsyncFor):
            guards = (*guards, "for", node.target, "in", node.iter)
            self._bind(_stored(node.target), guards)
            return [(guards, one) for one in (*node.body, *node.orelse)]
        if isinstance(node, ast.With | ast.AsyncWith):
            guards = (*guards, "with", *node.items)
            targets = [item.optional_vars for item in node.items if item.optional_vars is not None]
            self._bind([name for target in targets for name in _stored(target)], guards)
            return [(guards, one) for one in node.body]
        # TryStar is there from Python 3.11 on.
        if type(node).__name__ in {"Try", "TryStar"}:
            return _tried(guards, node)
        return None

    def _statement(self, guards: _Guards, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, ref in imports_of(node):
                if name == "*":
                    self.index.stars.append(ref)
                else:
                    self._binding(name).imports += (ref,)
        elif isinstance(node, ast.Expr):
            self._touch(_touched(node.value), guards, node)
        else:
            self._assign(guards, node)

    def _define(self, guards: _Guards, node: FunctionNode | ast.ClassDef) -> None:
        binding = self._binding(node.name)
        span = _span(node, self.line)
        self.index.spans.append(span)
        binding.line = 0 if isinstance(node, ast.ClassDef) else span[0]
        if binding.is_defined:
            self._extend(binding, Definition((facts((*guards, node)),)))
        elif isinstance(node, ast.ClassDef):
            binding.shape = self._shape(node, guards)
        else:
            told = facts((*guards, node), undecorated=node)
            binding.definition = Definition((told,), self._decorators(node) if node.decorator_list else ())
        if node.decorator_list:
            # @REGISTRY.add may put it into REGISTRY.
            names = [read[0] for one in node.decorator_list if (read := dotted(one)) and read[1]]
            self._touch([name for name in names if isinstance(name, str)], guards, node)

    def _assign(self, guards: _Guards, node: ast.stmt) -> None:
        names = _stored(node)
        self._bind(names, (*guards, node))
        if names:
            last = node.end_lineno or node.lineno
            self.index.spans.append((self.line + node.lineno, self.line + last, tuple(names), ()))
        if isinstance(node, ast.Assign):
            if len(names) == 1 and isinstance(node.value, ast.Attribute | ast.Call):
                self._binding(names[0]).alias = dotted(node.value)
            targets = node.targets
        else:
            targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []
        changed = [dotted(one) for one in targets if isinstance(one, ast.Attribute | ast.Subscript)]
        self._touch([str(read[0]) for read in changed if read], guards, node)

    def _bind(self, names: list[str], nodes: _Guards) -> None:
        """All *nodes* give the *names* their meaning."""
        if names:
            told = Definition((facts(nodes),))
            for name in names:
                self._extend(self._binding(name), told)

    def _touch(self, names: Iterable[str], guards: _Guards, node: ast.stmt) -> None:
        """The statement may change what the *names* stand for, if the file has defined them before."""
        bindings = self.index.bindings
        known = [name for name in dict.fromkeys(names) if name in bindings and bindings[name].is_defined]
        self._bind(known, (*guards, node))

    def _binding(self, name: str) -> Binding:
        binding = self.index.bindings.get(name)
        if binding is None:
            binding = self.index.bindings[name] = Binding()
        return binding

    def _extend(self, binding: Binding, more: Definition) -> None:
        """Another statement about a name."""
        before = binding.shape.as_definition() if binding.shape else binding.definition
        binding.shape = None
        binding.definition = Definition(before.facts + more.facts, before.decorators) if before else more

    def _shape(self, node: ast.ClassDef, guards: _Guards) -> ClassShape:
        named: dict[str, list[FunctionNode]] = {}
        for one in node.body:
            if isinstance(one, _FUNCTIONS):
                named.setdefault(one.name, []).append(one)
        return ClassShape(
            Definition((class_facts(node, guards, named),), self._decorators(node)),
            tuple([Named(dotted(base), facts([base])) for base in node.bases]),
            {name: self._method(methods) for name, methods in named.items()},
        )

    def _method(self, nodes: list[FunctionNode]) -> Definition:
        """All definitions of one method: a property and its setter share a name."""
        return Definition(
            tuple([facts([node], undecorated=node, method=None if _is_static(node) else node) for node in nodes]),
            tuple([decorator for node in nodes for decorator in self._decorators(node)]),
        )

    def _decorators(self, node: FunctionNode | ast.ClassDef) -> tuple[Named, ...]:
        return tuple(map(self._decorator, node.decorator_list))

    def _decorator(self, node: ast.expr) -> Named:
        text = b""
        if node.lineno == node.end_lineno:
            text = self._lines[node.lineno - 1][node.col_offset : node.end_col_offset]
            known = self._decorations.get(text)
            if known is not None:
                return known
        named = Named(dotted(node), facts([node]))
        if text:
            self._decorations[text] = named
        return named


def _is_static(node: FunctionNode) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in node.decorator_list)


def _branches(guards: _Guards, node: ast.If) -> list[tuple[_Guards, ast.stmt]]:
    test = node.test
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__":
        # if __name__ == "__main__": does not happen on import.
        return [(guards, one) for one in node.orelse]
    then = [((*guards, "if", test), one) for one in node.body]
    return then + [((*guards, "else", test), one) for one in node.orelse]


def _tried(guards: _Guards, node: Any) -> list[tuple[_Guards, ast.stmt]]:
    inside = [((*guards, "try"), one) for one in (*node.body, *node.orelse, *node.finalbody)]
    for handler in node.handlers:
        caught = [handler.type] if handler.type else []
        inside += [((*guards, "except", *caught), one) for one in handler.body]
    return inside


def _span(node: FunctionNode | ast.ClassDef, before: int) -> Span:
    first, last = node.lineno, node.end_lineno or node.lineno
    if node.decorator_list:
        first = min(first, *[decorator.lineno for decorator in node.decorator_list])
    methods: Sequence[Span] = ()
    if isinstance(node, ast.ClassDef):
        methods = [_span(one, before) for one in node.body if isinstance(one, _FUNCTIONS)]
    return before + first, before + last, (node.name,), methods


def _stored(node: ast.AST) -> list[str]:
    """The names that *node* binds in the scope it stands in, each once."""
    names: dict[str, None] = {}
    pending: list[ast.AST] = [node]
    while pending:
        one = pending.pop()
        if isinstance(one, ast.Name):
            if not isinstance(one.ctx, ast.Load):
                names[one.id] = None
        elif isinstance(one, ast.MatchAs | ast.MatchStar):
            names.update({one.name: None} if one.name else {})
        elif isinstance(one, _DEFINITIONS):
            names[one.name] = None
            continue
        elif isinstance(one, _SCOPES):
            continue
        pending.extend(ast.iter_child_nodes(one))
    return list(names)


#: What has names of its own, and what has none at all.
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Constant)


def _touched(value: ast.expr) -> Iterator[str]:
    """The names that an expression on a line of its own may change: of ``T.update(x)`` T, of ``fill(T)`` T."""
    if isinstance(value, ast.Call):
        read = dotted(value.func)
        if read and read[1]:
            yield str(read[0])
        yield from (one.id for one in value.args if isinstance(one, ast.Name))
