"""A tour: everything a task can be, do and depend on, a few lines each.

    pytest --flowforge examples/flow_sample.py -v
    pytest --flowforge examples/flow_sample.py --ff-list

Start at the top; the comments say what each part shows. Only the standard library is needed.
"""

import asyncio
import hashlib
import os
import re
import timeit
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

import pytest_flowforge
from pytest_flowforge import NoResult

#: The first stanzas of "Jabberwocky" by Lewis Carroll (1871).
POEM = """
'Twas brillig, and the slithy toves
Did gyre and gimble in the wabe:
All mimsy were the borogoves,
And the mome raths outgrabe.

"Beware the Jabberwock, my son!
The jaws that bite, the claws that catch!
Beware the Jubjub bird, and shun
The frumious Bandersnatch!"
"""


# ---- 1. Tasks and edges ---------------------------------------------------------------------------------------------


def flow_poem() -> str:
    """A task is a function `flow_*`; its name is `poem`, and what it returns is its result."""
    return POEM.strip()


def flow_words(poem: str) -> list[str]:
    """A parameter named after a task is an edge: `poem` runs first, and its result arrives as the argument."""
    words = re.findall(r"[a-z']+", poem.lower())
    assert len(words) == 45
    return words


def flow_frequent(words: list[str], least: int = 2) -> dict[str, int]:
    """A parameter with a default is no edge. And the function stays plain: a unit test may call it as it is."""
    return {word: count for word, count in Counter(words).items() if count >= least}


@pytest.mark.depends_on("frequent")
def flow_announce() -> None:
    """An edge by name: order only, nothing is handed over."""
    print("the words are counted")


@pytest.mark.depends_on("flow_etl.py::report")
def flow_after_etl() -> None:
    """An edge to a task of another file. It comes along with all it needs, even if only this file was asked for."""
    print("the other pipeline is done as well")


@pytest_flowforge.depends_on(flow_words, flow_frequent)
def flow_share(upstream: Mapping[str, Mapping[str, int]]) -> float:
    """Edges by function, which editors can follow. The fixture `upstream` holds the results, by task name."""
    share = sum(upstream["frequent"].values()) / len(upstream["words"])
    assert 0 < share < 1
    return share


# ---- 2. Parameters: many tasks from one function --------------------------------------------------------------------

STANZAS = ["first", "second"]


@pytest.mark.parametrize("stanza", STANZAS)
def flow_text(stanza: str, poem: str) -> str:
    """Broadcast: `text[first]` and `text[second]` both receive the one `poem`."""
    return poem.split("\n\n")[STANZAS.index(stanza)]


@pytest.mark.parametrize("stanza", STANZAS)
def flow_lines(stanza: str, text: str) -> int:
    """Join: both tasks have the parameter `stanza`, so `lines[first]` receives the result of `text[first]`."""
    assert len(text.splitlines()) == 4, f"the {stanza} stanza is not complete"
    return len(text.splitlines())


def flow_length(lines: dict[str, int]) -> int:
    """Fan-in: no parameter is shared, so all results arrive, as a dict."""
    assert list(lines) == STANZAS
    return sum(lines.values())


@pytest.mark.parametrize("algorithm", ["sha256", "blake2b"])
@pytest.mark.parametrize("stanza", STANZAS)
def flow_digest(stanza: str, algorithm: str, text: str) -> str:
    """Two parameters: a task for each combination, such as `digest[first-sha256]`."""
    digest = hashlib.new(algorithm, text.encode()).hexdigest()
    print(f"the {stanza} stanza by {algorithm}: {digest}")
    return digest


@pytest.mark.parametrize("stanza", STANZAS)
def flow_fingerprint(stanza: str, digest: dict[str, str]) -> str:
    """In between: `stanza` is shared and `algorithm` is not, so the digests of this stanza arrive, as a dict."""
    assert list(digest) == [f"{stanza}-sha256", f"{stanza}-blake2b"]
    return "".join(digest.values())[:16]


@pytest.mark.depends_on("fingerprint[second]")
def flow_after_second() -> None:
    """An edge to one variant."""
    print("the second stanza has its fingerprint")


# ---- 3. Fixtures: pytest's own ---------------------------------------------------------------------------------------


@pytest.fixture
def vocabulary(words: list[str]) -> set[str]:
    """A fixture may ask for a result too; who uses the fixture then waits for that task."""
    return set(words)


def flow_letters(vocabulary: set[str], alphabet: frozenset[str]) -> str:
    """`vocabulary` is made for this task, `alphabet` (see conftest.py) once for the run."""
    unused = sorted(alphabet - set("".join(vocabulary)))
    assert unused == ["p", "q", "x", "z"]
    return "".join(unused)


def flow_note(frequent: dict[str, int], notebook: IO[str]) -> None:
    """`notebook` is a resource that conftest.py opens and closes."""
    print(*frequent, sep="\n", file=notebook)
    notebook.seek(0)
    assert notebook.read().split() == list(frequent)


def flow_file(poem: str, tmp_path: Path) -> int:
    """`tmp_path` and other fixtures of pytest and its plugins are there as well."""
    return (tmp_path / "poem.txt").write_text(poem, encoding="utf-8")


# ---- 4. Classes and coroutines ---------------------------------------------------------------------------------------


class FlowPrimes:
    """A class groups tasks. Each runs on an instance of its own: they share results, not attributes."""

    limit = 10_000

    def flow_sieve(self) -> list[int]:
        """Eratosthenes: strike out the multiples; what is left is prime."""
        prime = [False, False] + [True] * (self.limit - 2)
        for number in range(2, int(self.limit**0.5) + 1):
            if prime[number]:
                prime[number * number :: number] = [False] * len(prime[number * number :: number])
        return [number for number, is_prime in enumerate(prime) if is_prime]

    def flow_count(self, sieve: list[int]) -> int:
        """Edges work as everywhere."""
        assert len(sieve) == 1229
        return len(sieve)


async def flow_checksums(words: list[str]) -> dict[str, str]:
    """A coroutine is a task like any other."""

    async def checksum(word: str) -> str:
        return await asyncio.to_thread(lambda: hashlib.sha256(word.encode()).hexdigest())

    longest = sorted(dict.fromkeys(words), key=len)[-3:]
    return dict(zip(longest, await asyncio.gather(*map(checksum, longest)), strict=True))


# ---- 5. When things go wrong -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Telephone:
    """A line that is busy at the first call; calls are counted in a file."""

    calls: Path

    def call(self) -> str:
        """Return the answer; raises ConnectionError while the line is busy."""
        with self.calls.open("a", encoding="ascii") as file:
            file.write("call\n")
        if self.calls.read_text(encoding="ascii").count("call") == 1:
            msg = "the line is busy"
            raise ConnectionError(msg)
        return "hello"


@pytest.fixture(scope="session")
def telephone(tmp_path_factory: pytest.TempPathFactory) -> Telephone:
    """The same line for all attempts, in whichever process of pytest-xdist they run."""
    folder = tmp_path_factory.getbasetemp()
    return Telephone((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "calls.txt")


@pytest.mark.retry(2, delay=0.01, on=(ConnectionError,))
def flow_call(telephone: Telephone) -> str:
    """Up to two retries: the first attempt meets a busy line, the second, 0.01 s later, gets through."""
    return telephone.call()


def flow_publish(poem: str) -> str:
    """`pytest.skip` means: there is nothing to do. The run is still a success."""
    if "PUBLISH_TO" not in os.environ:
        pytest.skip("PUBLISH_TO is not set")
    print(poem)
    return os.environ["PUBLISH_TO"]


def flow_receipt(publish: str) -> str:
    """What needs a skipped task is skipped too, for the same reason."""
    return f"published at {publish}"


@pytest.mark.xfail(reason="the first word is no number", raises=ValueError, strict=True)
def flow_number(words: list[str]) -> int:
    """A failure that is expected does not fail the run, and yet `number` has no result."""
    return int(words[0])


@pytest.mark.depends_on(when="any_failed")
def flow_diagnose(number: NoResult) -> None:
    """With `when="any_failed"` a task runs only if something it depends on failed. `NoResult` says what happened."""
    assert not number
    print(f"number {number.state}: {number.error}")


@pytest.mark.depends_on("words", "frequent", when="any_failed")
def flow_alarm() -> None:
    """The same rule where nothing failed: this task is skipped."""
    pytest.fail("never reached")


@pytest.mark.depends_on("share", "publish", "number", when="all_done")
def flow_clean_up(upstream: Mapping[str, object]) -> None:
    """With `when="all_done"` a task runs whatever happened. A `NoResult` is falsy and stands for a missing result."""
    for name, result in upstream.items():
        if isinstance(result, NoResult):
            print(f"{name}: {result.state}, {result.reason}")
    assert upstream["share"]
    assert not upstream["number"]


# ---- 6. Limits and order ---------------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
def flow_collatz() -> int:
    """An attempt that takes longer than 30 seconds is stopped."""

    def steps(number: int) -> int:
        count = 0
        while number != 1:
            number = number // 2 if number % 2 == 0 else 3 * number + 1
            count += 1
        return count

    longest = max(range(1, 1000), key=steps)
    assert longest == 871
    return longest


@pytest.mark.priority(10)
def flow_head_start(poem: str) -> str:
    """Of the tasks that are ready, the one with the highest priority starts first."""
    return poem[::-1]


@pytest.mark.exclusive
def flow_measure(words: list[str]) -> float:
    """A task that has the whole run for itself: nothing else disturbs the measurement."""
    seconds = timeit.timeit(lambda: Counter(words), number=100)
    assert seconds > 0
    return seconds
