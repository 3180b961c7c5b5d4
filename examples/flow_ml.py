"""Train several models side by side, choose the best, and keep it: handwritten digits with scikit-learn.

    pip install "pytest-flowforge[examples]"
    pytest --flowforge examples/flow_ml.py -v

    split -> train[knn]    -> evaluate[knn]    -+
          -> train[linear] -> evaluate[linear] -+-> choose -> final_score -> save -> reload
          -> train[forest] -> evaluate[forest] -+

Each model is a branch of its own: `evaluate[knn]` waits for `train[knn]` and for no other model. The 1,797 images come
with scikit-learn; all random choices are fixed, so every run gives the same numbers.
"""

import pickle
from pathlib import Path
from typing import Any, TypeAlias

import pytest

pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "pytest-flowforge[examples]"')

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

#: A classifier; scikit-learn has no type hints.
Model: TypeAlias = Any
#: Part of the data -> its images (one row of 64 grey values each) and the digits they show.
Parts: TypeAlias = dict[str, tuple[Any, Any]]

MODELS = ["knn", "linear", "forest"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the chosen model goes; in real life a bucket or a registry."""
    return tmp_path_factory.mktemp("digits") / "model.pickle"


def flow_split() -> Parts:
    """Divide the images into 60 % to learn from, 20 % to choose by, and 20 % that nobody sees before the end."""
    images, digits = load_digits(return_X_y=True)
    learn, rest, learn_digits, rest_digits = train_test_split(
        images, digits, test_size=0.4, stratify=digits, random_state=0
    )
    choose, final, choose_digits, final_digits = train_test_split(
        rest, rest_digits, test_size=0.5, stratify=rest_digits, random_state=0
    )
    assert len(learn) + len(choose) + len(final) == len(images) == 1797
    return {
        "learn": (learn, learn_digits),
        "choose": (choose, choose_digits),
        "final": (final, final_digits),
    }


@pytest.mark.parametrize("model", MODELS)
def flow_train(model: str, split: Parts) -> Model:
    """Fit one model; if it fails, the other branches go on."""
    images, digits = split["learn"]
    return build(model).fit(images, digits)


@pytest.mark.parametrize("model", MODELS)
def flow_evaluate(model: str, train: Model, split: Parts) -> float:
    """Measure one model. Both tasks have the parameter `model`, so `train` is the model that bears this name."""
    accuracy = float(train.score(*split["choose"]))
    assert accuracy > 0.9, f"{model} reads only {accuracy:.1%} of the digits: something is broken"
    return accuracy


def flow_choose(evaluate: dict[str, float]) -> str:
    """Name the best model. This task has no parameter `model`, so it receives all scores, by name."""
    assert list(evaluate) == MODELS
    for model, accuracy in evaluate.items():
        print(f"{model:8}{accuracy:.1%}")
    return max(evaluate, key=evaluate.__getitem__)


def flow_final_score(choose: str, train: dict[str, Model], split: Parts) -> float:
    """Test the chosen model on the images that had no say in the choice."""
    accuracy = float(train[choose].score(*split["final"]))
    print(f"{choose} reads {accuracy:.1%} of images it has never seen")
    assert accuracy > 0.95
    return accuracy


@pytest.mark.depends_on("final_score")  # a model that fails the final test is never saved
def flow_save(choose: str, train: dict[str, Model], model_file: Path) -> str:
    """Keep the chosen model, and return where it is."""
    model_file.write_bytes(pickle.dumps(train[choose]))
    return str(model_file)


def flow_reload(save: str, split: Parts, final_score: float) -> None:
    """Load the model as an application would: it must score exactly what it scored before."""
    # Unpickling runs code, so it is for files of your own; this one was written a moment ago.
    model = pickle.loads(Path(save).read_bytes())  # noqa: S301
    assert model.score(*split["final"]) == final_score


def build(model: str) -> Model:
    """Return the untrained model of this name."""
    if model == "knn":
        return KNeighborsClassifier(n_neighbors=3)
    if model == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return RandomForestClassifier(n_estimators=100, random_state=0)
