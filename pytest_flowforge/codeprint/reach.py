"""From names to things: what a function, class or constant of the project leads to.

Names are looked up in the syntax of the files, so that what a decorator or an assignment made of a function at run time
does not matter: the decorator and the assignment are reached themselves. Living modules are asked only which file an
import means, and for names that no statement of the file binds.
"""

from __future__ import annotations

import builtins
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_flowforge.codeprint.index import Definition
from pytest_flowforge.codeprint.project import SourceFile
from pytest_flowforge.codeprint.syntax import ImportRef
from pytest_flowforge.codeprint.things import Thing, forget
from pytest_flowforge.core.fingerprint import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from pytest_flowforge.codeprint.index import ClassShape
    from pytest_flowforge.codeprint.project import Project
    from pytest_flowforge.codeprint.syntax import Facts, Read
    from pytest_flowforge.codeprint.things import Expansion

__all__ = ["Reach", "WholeClass"]

#: With these a function can reach anything in its module.
_DYNAMIC = {"eval", "exec", "globals"}

#: Attributes of an instance through which all others can be reached.
_ALL_OF_IT = {"__class__", "__dict__"}

_BUILTINS = frozenset(vars(builtins))

_EMPTY = Definition(())


#: A name at the top level of a file, or an import there, and attributes taken from it.
_Place: TypeAlias = "tuple[SourceFile, str | ImportRef, tuple[str, ...]]"


class WholeClass(Thing):
    """A class with all its methods and bases."""

    __slots__ = ("name", "setters", "shape", "source")

    def __init__(self, source: SourceFile, name: str, shape: ClassShape, expand: Callable[[], Expansion]) -> None:
        super().__init__(f"{source.label}::{name}", expand)
        self.source = source
        self.name = name
        self.shape = shape
        #: Attribute of an instance -> the methods that set it.
        self.setters: dict[str, list[str]] = {}
        for method, definition in shape.methods.items():
            for attribute in {stored for facts in definition.facts for stored in facts.self_stores}:
                self.setters.setdefault(attribute, []).append(method)


class Reach:
    """Makes the things of a project, each once.

    Decorators whose full name is one of *marks*, or begins with it, do not count. *living* makes a thing of a value
    that was found under a name in a module, where no syntax tells what it is: (this object, source, name, value).
    """

    def __init__(
        self, project: Project, marks: Sequence[str], living: Callable[[Reach, SourceFile, str, Any], Thing]
    ) -> None:
        self.project = project
        self._marks = tuple(marks)
        self._living = living
        self._defined: dict[SourceFile, dict[str, Thing]] = {}
        self._things: dict[tuple[object, ...], Thing] = {}
        self._read: dict[tuple[SourceFile, Read], tuple[Thing, ...]] = {}
        self._mros: dict[WholeClass, tuple[WholeClass, ...]] = {}

    def close(self) -> None:
        """Forget all things, and the files."""
        defined = [thing for things in self._defined.values() for thing in things.values()]
        read = [thing for things in self._read.values() for thing in things]
        forget([*defined, *read, *self._things.values()])
        for known in (self._defined, self._things, self._read, self._mros):
            known.clear()
        self.project.close()

    # Things.

    def defined(self, source: SourceFile, name: str) -> Thing:
        """What the top level of *source* defines as *name*."""
        things = self._defined.get(source)
        if things is None:
            things = self._defined[source] = {}
        known = things.get(name)
        if known is None:
            binding = source.index.bindings[name]
            known = things[name] = (
                self._class(source, name, binding.shape)
                if binding.shape is not None
                else self._definition(source, name, binding.definition or _EMPTY)
            )
        return known

    def _class(self, source: SourceFile, name: str, shape: ClassShape) -> WholeClass:
        whole = WholeClass(source, name, shape, lambda: self._expand_class(whole))
        return whole

    def _definition(self, source: SourceFile, name: str, definition: Definition) -> Thing:
        facts = definition.facts
        thing = Thing(f"{source.label}::{name}")
        if len(facts) == 1 and not facts[0].reads and not definition.decorators:
            # It leads nowhere, so nothing has to be found out later.
            thing.own = facts[0].digest
        else:
            thing.expansion = partial(self._own, source, definition)
        return thing

    def module(self, source: SourceFile) -> Thing:
        """All that the top level of *source* defines."""

        def expand() -> Expansion:
            names = [name for name, binding in source.index.bindings.items() if binding.is_defined]
            return None, [self.defined(source, name) for name in names]

        return self._things.setdefault((source,), Thing(f"{source.label}::*", expand))

    def outside(self, name: str) -> Thing:
        """Something that is not of the project, of which only the name counts."""
        return self._things.setdefault((name,), Thing(name))

    def method(self, owner: WholeClass, name: str, instance: WholeClass) -> Thing:
        """The method that *owner* defines, of an object whose class is *instance*."""
        known = self._things.get((owner, name, instance))
        if known is None:
            known = Thing(f"{owner.key}.{name}", lambda: self._expand_method(owner, name, instance))
            self._things[owner, name, instance] = known
        return known

    def _shell(self, owner: WholeClass, instance: WholeClass) -> Thing:
        """A class without its methods, but with those that Python itself calls."""
        known = self._things.get((owner, instance))
        if known is None:
            known = self._things[owner, instance] = Thing(owner.key, lambda: self._expand_shell(owner, instance))
        return known

    # What they consist of and lead to.

    def _expand_class(self, whole: WholeClass) -> Expansion:
        bases = [thing for base in whole.shape.bases for thing in self.reads(whole.source, base.facts.reads)]
        methods = [self.method(whole, name, whole) for name in whole.shape.methods]
        return None, [self._shell(whole, whole), *bases, *methods]

    def _expand_shell(self, owner: WholeClass, instance: WholeClass) -> Expansion:
        shape = owner.shape
        own, targets = self._own(owner.source, shape.own)
        names = [own or ""]
        found = list(targets)
        for base in shape.bases:
            things = list(self.reads(owner.source, base.facts.reads))
            names += [base.facts.digest, *sorted({thing.key for thing in things})]
            # Only what is asked of a base later counts, so not all of its methods.
            found += [self._shell(thing, instance) if isinstance(thing, WholeClass) else thing for thing in things]
        used = {name for facts in shape.own.facts for name in facts.self_reads}
        called = [name for name in shape.methods if name in used or (name.startswith("__") and name.endswith("__"))]
        return digest_of(*names), [*found, *[self.method(owner, name, instance) for name in called]]

    def _expand_method(self, owner: WholeClass, name: str, instance: WholeClass) -> Expansion:
        methods = owner.shape.methods
        # @size.setter names what is above it in the class.
        own, targets = self._own(owner.source, methods[name], methods)
        found = [*targets, self._shell(instance, instance), self._shell(owner, instance)]
        for facts in methods[name].facts:
            found += self._of_instance(facts, owner, instance)
        return own, found

    def _own(self, source: SourceFile, definition: Definition, siblings: Container[object] = ()) -> Expansion:
        """The own digest of a definition and what its names lead to; decorators named after *siblings* lead nowhere."""
        digests = [facts.digest for facts in definition.facts]
        reads = [read for facts in definition.facts for read in facts.reads]
        for decorator in definition.decorators:
            if not self.is_mark(source, decorator.name):
                digests.append(decorator.facts.digest)
                if decorator.name is None or decorator.name[0] not in siblings:
                    reads += decorator.facts.reads
        targets = list(self.reads(source, reads))
        if len(digests) == 1 and not targets:
            return digests[0], ()
        # The names as well: an import may have made the same word mean something else.
        return digest_of(*digests, "reads", *sorted({thing.key for thing in targets})), targets

    def _of_instance(self, facts: Facts, owner: WholeClass, instance: WholeClass) -> Iterator[Thing]:
        """What a method of *owner* reaches through its first parameter and through ``super()``."""
        if facts.self_escapes or not _ALL_OF_IT.isdisjoint(facts.self_reads):
            yield instance
        if not facts.self_reads and not facts.super_reads:
            return
        mro = self._mro(instance)
        for name in facts.self_reads:
            yield from self._attribute(name, mro, instance)
        beyond = mro[mro.index(owner) + 1 :] if owner in mro else self._mro(owner)[1:]
        for name in facts.super_reads:
            yield from self._attribute(name, beyond, instance)

    def _attribute(self, name: str, classes: Sequence[WholeClass], instance: WholeClass) -> Iterator[Thing]:
        """The method of this name, or else all methods that set an attribute of this name."""
        for one in classes:
            if name in one.shape.methods:
                yield self.method(one, name, instance)
                return
        for one in classes:
            for method in one.setters.get(name, ()):
                yield self.method(one, method, instance)

    def _mro(self, whole: WholeClass) -> tuple[WholeClass, ...]:
        """The classes of the project in which Python looks for an attribute, in its order.

        Where Python could find no order, this is some order.
        """
        if whole not in self._mros:
            done: dict[WholeClass, None] = {}
            path = [(whole, iter(self._bases(whole)))]
            seen = {whole}
            while path:
                one, bases = path[-1]
                base = next((base for base in bases if base not in seen), None)
                if base is None:
                    done[one] = None
                    path.pop()
                else:
                    seen.add(base)
                    path.append((base, iter(self._bases(base))))
            self._mros[whole] = tuple(reversed(done))
        return self._mros[whole]

    def _bases(self, whole: WholeClass) -> list[WholeClass]:
        """The bases that are classes of the project, last one first."""
        named = [base.name for base in whole.shape.bases if base.name is not None]
        found = [thing for thing in self.reads(whole.source, named) if isinstance(thing, WholeClass)]
        return found[::-1]

    # Names.

    def reads(self, source: SourceFile, reads: Iterable[Read]) -> Iterator[Thing]:
        """What names that are read at the top level of *source*, or in one of its functions, lead to."""
        bindings, known = source.index.bindings, self._read
        for read in reads:
            name = read[0]
            if name in _BUILTINS and name not in bindings and name not in _DYNAMIC and not source.index.stars:
                continue
            found = known.get((source, read))
            if found is None:
                found = known[source, read] = tuple(dict.fromkeys(self._look_up(source, read)))
            yield from found

    def _look_up(self, source: SourceFile, read: Read) -> Iterator[Thing]:
        pending: list[_Place] = [(source, *read)]
        seen = set()
        while pending:
            here, name, attributes = place = pending.pop()
            if place in seen:
                # Two modules that import a name from each other.
                continue
            seen.add(place)
            if isinstance(name, ImportRef):
                followed = self._follow(here, name, attributes)
                if isinstance(followed, Thing):
                    yield followed
                else:
                    pending.append(followed)
            elif (binding := here.index.bindings.get(name)) is not None:
                if binding.is_defined:
                    yield self.defined(here, name)
                pending += [(here, ref, attributes) for ref in binding.imports]
            else:
                for star in here.index.stars:
                    module = self.project.module(star.module, here, star.level)
                    if isinstance(module, SourceFile):
                        pending.append((module, name, attributes))
                yield from self._unbound(here, name)

    def _unbound(self, source: SourceFile, name: str) -> Iterator[Thing]:
        """What a name means that no statement of *source* binds."""
        if name in _DYNAMIC:
            yield self.module(source)
        elif name not in _BUILTINS:
            for star in source.index.stars:
                module = self.project.module(star.module, source, star.level)
                if not isinstance(module, SourceFile):
                    yield self.outside(f"{module}.{name}")
            # What a star has brought is found in its own file.
            if source.live is not None and name in source.live and not source.index.stars:
                yield self._living(self, source, name, source.live[name])

    def _follow(self, source: SourceFile, ref: ImportRef, attributes: tuple[str, ...]) -> Thing | _Place:
        """Where an import and the attributes taken from it lead: to a thing, or to a name in another file."""
        name = ref.module
        module = self.project.module(name, source, ref.level)
        chain = (ref.attr, *attributes) if ref.attr else attributes
        while chain:
            first, *rest = chain
            deeper = f"{name}.{first}" if name else first
            if isinstance(module, SourceFile):
                if first in module.index.bindings:
                    return module, first, tuple(rest)
            elif not ref.level and not self.project.may_hold_modules(name):
                return self.outside(f"{name}.{ref.attr}" if ref.attr else name)
            below = self.project.module(deeper, source, ref.level)
            if not isinstance(below, SourceFile):
                if isinstance(module, SourceFile):
                    lazy = "__getattr__" in module.index.bindings
                    return (module, "__getattr__", ()) if lazy else (module, first, tuple(rest))
                if not self.project.may_hold_modules(below):
                    return self.outside(f"{module}.{first}")
            name, module, chain = deeper, below, tuple(rest)
        return self.module(module) if isinstance(module, SourceFile) else self.outside(module)

    def is_mark(self, source: SourceFile, read: Read | None) -> bool:
        """Whether a decorator of this name only carries marks."""
        pending: list[_Place] = [(source, *read)] if read is not None else []
        seen = set()
        while pending:
            here, name, attributes = one = pending.pop()
            if one in seen:
                continue
            seen.add(one)
            binding = here.index.bindings.get(name) if isinstance(name, str) else None
            if binding is None:
                continue
            if self._is_method_mark(here, name, attributes):
                return True
            if binding.alias is not None:
                pending.append((here, binding.alias[0], (*binding.alias[1], *attributes)))
            for ref in binding.imports:
                full = ".".join(filter(None, [ref.module, ref.attr, *attributes]))
                if self._is_named_as_mark(full):
                    return True
                followed = self._follow(here, ref, attributes)
                if not isinstance(followed, Thing):
                    pending.append(followed)
        return False

    def _is_method_mark(self, source: SourceFile, name: str | ImportRef, attributes: tuple[str, ...]) -> bool:
        """Whether this is such a method of an object that the file has made or imported, as in ``@workflow.task``."""
        if not attributes or source.live is None or not isinstance(name, str):
            return False
        classes = type(source.live.get(name)).__mro__
        return any(self._is_named_as_mark(".".join((one.__module__, one.__qualname__, *attributes))) for one in classes)

    def _is_named_as_mark(self, full: str) -> bool:
        return any(full == mark or full.startswith(mark + ".") for mark in self._marks)
