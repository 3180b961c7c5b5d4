"""What one piece of a syntax tree says, and which names it reads from outside.

The normal form leaves out what does not change the meaning: places, comments, formatting, docstrings, ``pass`` and
other statements that are only a constant. Everything else counts, the names of local variables too. It does not use
:func:`ast.dump`: its text has changed between versions of Python, it is recursive, and a second walk would be needed
for the names.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pytest_flowforge.core.fingerprint import text_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

__all__ = ["Facts", "FunctionNode", "ImportRef", "Read", "class_facts", "dotted", "facts", "imports_of"]

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class ImportRef(NamedTuple):
    """What a name is bound to by an import: ``from module import attr``, or the module itself where ``attr`` is empty.

    ``level`` counts the leading dots.
    """

    module: str
    attr: str = ""
    level: int = 0


#: A name that is read and the attributes taken from it: ``h.sub.f`` is ``("h", ("sub", "f"))``. Where a function
#: imports something itself, the import stands for the name.
Read: TypeAlias = tuple[str | ImportRef, tuple[str, ...]]


# Not frozen, though nothing ever changes it: a file makes one for every function, and a frozen one takes far longer.
@dataclass(slots=True)
class Facts:
    """The ``digest`` of a piece of syntax, and what it reads from outside.

    ``reads`` are names that are not its own. For a method: ``self_reads`` are the attributes of its first parameter
    that it reads, ``self_stores`` those it sets, ``super_reads`` those of ``super()``; ``self_escapes`` says that it
    uses its first parameter in any other way.
    """

    digest: str
    reads: tuple[Read, ...] = ()
    self_reads: tuple[str, ...] = ()
    self_stores: tuple[str, ...] = ()
    super_reads: tuple[str, ...] = ()
    self_escapes: bool = False


def facts(
    nodes: Sequence[ast.AST | str], *, undecorated: ast.AST | None = None, method: ast.AST | None = None
) -> Facts:
    """The facts of *nodes* (and words between them) at the top level of a module, or of a class.

    The decorators of *undecorated* are left out, its other parts are not; *method* is the function among *nodes* whose
    first parameter is the instance.
    """
    walk = _Walk(undecorated, method)
    walk.all(nodes)
    return walk.facts()


def class_facts(
    node: ast.ClassDef, guards: Iterable[ast.AST | str], methods: Mapping[str, Sequence[FunctionNode]]
) -> Facts:
    """The facts of a class without its decorators, bases and *methods*: keywords, all other statements in their order.

    Its ``self_reads`` are the methods that those statements use: ``size = property(get_size)``.
    """
    walk = _Walk(None, None)
    walk.all([*guards, f"class {node.name}", *node.keywords, "body"])
    walk.scope = walk.enter()
    walk.scope.is_class = True
    walk.scope.methods = methods
    apart = {id(definition) for definitions in methods.values() for definition in definitions}
    walk.all([statement for statement in node.body if id(statement) not in apart])
    return walk.facts()


def dotted(node: ast.AST) -> Read | None:
    """``pytest.mark.retry`` of ``pytest.mark.retry(3)``, ``Base`` of ``Base[int]``; None for what has no such name."""
    attributes: list[str] = []
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        else:
            return (node.id, tuple(reversed(attributes))) if isinstance(node, ast.Name) else None


def imports_of(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, ImportRef]]:
    """The names an import statement binds, each with what it stands for."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, ImportRef(node.module or "", alias.name, node.level)
        elif alias.asname:
            yield alias.asname, ImportRef(alias.name)
        else:
            top = alias.name.partition(".")[0]
            yield top, ImportRef(top)


_Chain: TypeAlias = tuple[str, tuple[str, ...]]


class _Scope:
    """The names of one function, class or comprehension, or (``outer`` is None) of what is around it all."""

    # What most scopes do not have stands here, for all of them.
    is_class = False
    is_comprehension = False
    #: The first parameter of the method, in the scope of the method itself.
    self_name = ""
    #: The methods of a class that are looked at apart from it.
    methods: Collection[str] = ()
    declared_global: Collection[str] = ()
    imports: dict[str, list[ImportRef]] | None = None
    #: Chains whose last attribute is set.
    stores: set[_Chain] | None = None

    def __init__(self, outer: _Scope | None) -> None:
        self.outer = outer
        self.bound: set[str] = set()
        #: Chains that are read.
        self.loads: set[_Chain] = set()

    def home(self, name: str) -> _Scope | None:
        """The scope that *name* belongs to when it is read here; None when it comes from the module."""
        scope: _Scope | None = self
        while scope is not None and scope.outer is not None:
            if name in scope.declared_global:
                return None
            if (name in scope.bound or name in scope.methods) and (scope is self or not scope.is_class):
                return scope
            scope = scope.outer
        return None


#: Fields of a node that say nothing about meaning, or say it twice.
_IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}

#: Fields that hold a name which the node binds.
_BINDING_FIELDS = {ast.ExceptHandler: "name", ast.MatchAs: "name", ast.MatchStar: "name", ast.MatchMapping: "rest"}

#: Fields that hold one node and are never empty: their place tells what they are.
_CERTAIN = {
    ast.Assign: {"value"},
    ast.AugAssign: {"target", "op", "value"},
    ast.BinOp: {"left", "op", "right"},
    ast.BoolOp: {"op"},
    ast.Call: {"func"},
    ast.Compare: {"left"},
    ast.Expr: {"value"},
    ast.For: {"target", "iter"},
    ast.If: {"test"},
    ast.IfExp: {"test", "body", "orelse"},
    ast.Subscript: {"value", "slice"},
    ast.UnaryOp: {"op", "operand"},
    ast.keyword: {"value"},
}

#: What to do with the fields of every kind of node, last one first, as the stack wants them: (field, the word that
#: opens a list, whether the field is certain).
_FIELDS: dict[type, tuple[tuple[str, str, bool], ...]] = {}


class _Walk:
    """One pass over a piece of syntax. What is still to be done lies on a stack: syntax may be deeply nested."""

    def __init__(self, undecorated: ast.AST | None, method: ast.AST | None) -> None:
        self.undecorated = undecorated
        self.method = method
        self.scope = _Scope(None)
        self.scopes = [self.scope]
        self.stack: list[Any] = []
        self.words: list[str] = []
        self.super_reads: set[str] = set()

    def enter(self) -> _Scope:
        """A new scope inside the present one, which stays the present one."""
        made = _Scope(self.scope)
        self.scopes.append(made)
        return made

    def all(self, nodes: Sequence[ast.AST | str]) -> None:
        # Every node comes by here: what can be looked up once is.
        stack, words, special, named, read = self.stack, self.words, _SPECIAL, ast.Name, ast.Load
        stack += nodes[::-1]
        while stack:
            node = stack.pop()
            kind = node.__class__
            if kind is str:
                words.append(node)
            elif kind is named:
                name = node.id
                words.append("$" + name)
                if node.ctx.__class__ is read:
                    self.scope.loads.add((name, ()))
                else:
                    self.scope.bound.add(name)
            elif kind is _Scope:
                self.scope = node
            elif (handle := special.get(kind)) is not None:
                handle(self, node)
            else:
                self.plain(node, kind)

    def plain(self, node: Any, kind: type) -> None:
        """Write the kind of the node and put its parts on the stack."""
        fields = _FIELDS.get(kind)
        if fields is None:
            fields = _FIELDS[kind] = _plan(kind)
        if not fields:
            self.words.append(kind.__name__)
            return
        stack = self.stack
        self.words.append(kind.__name__ + "(")
        stack.append(")")
        for name, opening, certain in fields:
            value = getattr(node, name, None)
            if certain:
                stack.append(value)
            elif value.__class__ is list:
                if value:
                    stack.append("]")
                    stack += value[::-1]
                    stack.append(opening)
            elif isinstance(value, ast.AST):
                stack.append(value)
                stack.append(name)
            elif value is not None:
                stack.append(f"{name}={value!a}")
        bound = _BINDING_FIELDS.get(kind)
        if bound and getattr(node, bound):
            self.scope.bound.add(getattr(node, bound))

    def facts(self) -> Facts:
        # No word has a line break in it, and each tells where it ends.
        digest = text_digest("\n".join(self.words))
        told = [scope for scope in self.scopes if scope.loads or scope.stores]
        return self.resolved(digest, told) if told or self.super_reads else Facts(digest)

    def resolved(self, digest: str, told: Iterable[_Scope]) -> Facts:
        """The facts, with whatever the names in the scopes belong to."""
        reads: set[Read] = set()
        self_reads: set[str] = set()
        self_stores: set[str] = set()
        escapes = False
        for scope in told:
            for chain in scope.loads:
                name, attributes = chain
                home = scope.home(name)
                if home is None:
                    reads.add(chain)
                elif home.imports is not None and name in home.imports:
                    reads.update([(ref, attributes) for ref in home.imports[name]])
                elif name in home.methods:
                    self_reads.add(name)
                elif name == home.self_name:
                    self_reads.update(attributes[:1])
                    escapes = escapes or not attributes
            for name, attributes in scope.stores or ():
                home = scope.home(name)
                if home is None:
                    reads.add((name, attributes))
                elif name == home.self_name:
                    self_stores.add(attributes[0])
        return Facts(
            digest, tuple(reads), tuple(self_reads), tuple(self_stores), tuple(self.super_reads), self_escapes=escapes
        )


def _plan(kind: type) -> tuple[tuple[str, str, bool], ...]:
    names = [name for name in getattr(kind, "_fields", ()) if name not in _IGNORED]
    certain = _CERTAIN.get(kind, ())
    return tuple([(name, name + "[", name in certain) for name in reversed(names)])


def _constant(walk: _Walk, node: ast.Constant) -> None:
    value = node.value
    # Python refuses to write very large integers in decimal.
    shown = hex(value) if value.__class__ is int else ascii(value)
    walk.words.append(f"{value.__class__.__name__}:{shown}")


def _attribute(walk: _Walk, node: ast.Attribute) -> None:
    names: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    names.reverse()
    stored = node.ctx.__class__ is not ast.Load
    path = ".".join(names)
    if isinstance(inner, ast.Name):
        walk.words.append(f"${inner.id}.{path}")
        chain = (inner.id, tuple(names))
        # Of `self.cache.size = 1` the attribute `cache` is read; of `self.size = 1` nothing is.
        if not stored or len(names) > 1:
            walk.scope.loads.add(chain)
        elif walk.scope.stores is None:
            walk.scope.stores = {chain}
        else:
            walk.scope.stores.add(chain)
        return
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super":
        walk.super_reads.add(names[0])
    walk.words.append("." + path)
    walk.stack.append(inner)


def _nothing(_: _Walk, __: ast.AST) -> None:
    """It does nothing when it runs."""


def _expression(walk: _Walk, node: ast.Expr) -> None:
    if not isinstance(node.value, ast.Constant):
        walk.plain(node, ast.Expr)


def _argument(walk: _Walk, node: ast.arg) -> None:
    # It belongs to the scope inside, where _function has put it already; its annotation belongs outside.
    walk.words.append("arg " + node.arg)
    if node.annotation is not None:
        walk.stack += [node.annotation, ":"]


def _parameters(arguments: ast.arguments) -> list[str]:
    """The names of all parameters, those that go by place first."""
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    if arguments.vararg is not None:
        named.append(arguments.vararg)
    if arguments.kwarg is not None:
        named.append(arguments.kwarg)
    return [one.arg for one in named] if named else []


def _function(walk: _Walk, node: FunctionNode) -> None:
    outer, inner, stack = walk.scope, walk.enter(), walk.stack
    outer.bound.add(node.name)
    walk.words.append(f"{node.__class__.__name__} {node.name}(")
    # From the last to the first: the stack is read from its end.
    stack += (outer, ")", *node.body[::-1], inner)
    if node.returns is not None:
        stack += (node.returns, "->")
    if parameters := _parameters(node.args):
        inner.bound.update(parameters)
        stack.append(node.args)
        if node is walk.method and (node.args.posonlyargs or node.args.args):
            inner.self_name = parameters[0]
    if node.decorator_list and node is not walk.undecorated:
        stack += (*node.decorator_list[::-1], "@")
    stack += getattr(node, "type_params", ())[::-1]


def _lambda(walk: _Walk, node: ast.Lambda) -> None:
    outer, inner = walk.scope, walk.enter()
    inner.bound.update(_parameters(node.args))
    walk.words.append("Lambda(")
    walk.stack += (outer, ")", node.body, inner, node.args)


def _class(walk: _Walk, node: ast.ClassDef) -> None:
    outer, inner = walk.scope, walk.enter()
    inner.is_class = True
    outer.bound.add(node.name)
    walk.words.append(f"ClassDef {node.name}(")
    walk.stack += [outer, ")", *node.body[::-1], inner, "body", *node.keywords[::-1], *node.bases[::-1]]
    if node is not walk.undecorated:
        walk.stack += [*node.decorator_list[::-1], "@"]
    walk.stack += getattr(node, "type_params", ())[::-1]


def _comprehension(walk: _Walk, node: Any) -> None:
    outer, inner = walk.scope, walk.enter()
    inner.is_comprehension = True
    first, *rest = node.generators
    made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    walk.words.append(node.__class__.__name__ + "(")
    is_async = ["async"] if first.is_async else []
    walk.stack += [outer, ")", *made[::-1], *rest[::-1], *first.ifs[::-1], first.target, *is_async, inner]
    # What the first loop runs over is looked up outside: [x for x in x].
    walk.stack += [first.iter, "in"]


def _named(walk: _Walk, node: ast.NamedExpr) -> None:
    scope = walk.scope
    while scope.is_comprehension and scope.outer is not None:
        scope = scope.outer
    scope.bound.add(node.target.id)
    walk.words.append(f"{node.target.id} :=")
    walk.stack.append(node.value)


def _import(walk: _Walk, node: ast.Import | ast.ImportFrom) -> None:
    for alias in node.names:
        walk.words.append(
            f"import {getattr(node, 'level', '')} {getattr(node, 'module', '')} {alias.name} {alias.asname}"
        )
    scope = walk.scope
    if scope.imports is None:
        scope.imports = {}
    for name, ref in imports_of(node):
        scope.bound.add(name)
        scope.imports.setdefault(name, []).append(ref)


def _augmented(walk: _Walk, node: ast.AugAssign) -> None:
    if isinstance(node.target, ast.Name):
        # `TOTAL += 1` reads it as well.
        walk.scope.loads.add((node.target.id, ()))
    walk.plain(node, ast.AugAssign)


def _global(walk: _Walk, node: ast.Global) -> None:
    walk.words.append("global " + " ".join(sorted(node.names)))
    walk.scope.declared_global = {*walk.scope.declared_global, *node.names}


def _absent(walk: _Walk, _: None) -> None:
    walk.words.append("None")


_SPECIAL: dict[type, Callable[[_Walk, Any], None]] = {
    ast.Constant: _constant,
    ast.Attribute: _attribute,
    ast.Pass: _nothing,
    ast.Expr: _expression,
    ast.arg: _argument,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.Lambda: _lambda,
    ast.ClassDef: _class,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
    ast.NamedExpr: _named,
    ast.Import: _import,
    ast.ImportFrom: _import,
    ast.AugAssign: _augmented,
    ast.Global: _global,
    # The key of `**rest` in a dict, the default of a keyword argument that has none.
    type(None): _absent,
}
