"""`Embedder` is a scikit-learn transformer, and pipelines with a model can be copied and saved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from protrna_cli import Embedder, InputError, UsageError, WeightsError, embed, load_model
from tests.conftest import TOY

SEQUENCES = ["ACGU" * n for n in range(1, 7)] + ["GGC" * n for n in range(1, 7)]
CLASSES = ["a"] * 6 + ["b"] * 6

CHECKS = [
    "check_dict_unchanged_without_data",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]
"""The checks of scikit-learn that need no matrix to fit; all others do."""


@pytest.mark.parametrize("name", [each for each in CHECKS if hasattr(estimator_checks, each)])
def test_it_passes_what_scikit_learn_can_check(name: str) -> None:
    getattr(estimator_checks, name)("Embedder", Embedder(str(TOY)))


def test_scikit_learn_has_no_other_check_for_sequences() -> None:
    with pytest.warns(UserWarning, match="Can't test estimator Embedder"):
        results = estimator_checks.check_estimator(Embedder(str(TOY)))
    assert {result["status"] for result in results} == {"passed"}


def test_its_vectors_are_those_of_embed() -> None:
    how: dict[str, Any] = {"layers": 1, "pool": "max", "max_length": 9, "overlap": 3, "normalize": True}
    expected = embed(SEQUENCES, TOY, **how)
    for embedder in (Embedder(TOY, **how), Embedder(load_model(TOY), **how), clone(Embedder(TOY, **how))):
        assert embedder.fit(SEQUENCES).transform(SEQUENCES).tobytes() == expected.tobytes()
        assert clone(embedder).transform(SEQUENCES).tobytes() == expected.tobytes()  # without fitting
        assert embedder.fit_transform(iter(SEQUENCES)).tobytes() == expected.tobytes()
    half = Embedder(TOY, precision="bfloat16").fit([])
    assert half.model_.precision == "bfloat16"
    assert half.transform(SEQUENCES).tobytes() == embed(SEQUENCES, TOY, precision="bfloat16").tobytes()


def test_it_names_its_columns() -> None:
    embedder = Embedder(TOY).set_output(transform="pandas")
    frame = embedder.fit_transform(SEQUENCES)
    assert list(frame.columns) == list(embedder.get_feature_names_out())
    assert list(frame.columns[[0, -1]]) == ["embedder0", "embedder39"]
    assert np.array_equal(frame.to_numpy(), embed(SEQUENCES, TOY))


def test_a_search_tries_its_parameters() -> None:
    pipeline = make_pipeline(Embedder(TOY), LogisticRegression(max_iter=9999))
    grid = {"embedder__pool": ["mean", "max"], "embedder__layers": [1, 3]}
    found = GridSearchCV(pipeline, grid, cv=2).fit(SEQUENCES, CLASSES)
    assert len(found.cv_results_["params"]) == 4
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    assert found.best_estimator_.predict(["ACGUACGU", "GGCGGC"]).shape == (2,)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"on_invalid": "skip"}, UsageError, "on_invalid='skip' leaves sequences without a row"),
        ({"long": "skip"}, UsageError, "long='skip' leaves sequences without a row"),
        ({"layers": (1, 3)}, UsageError, r"layers= takes a whole number, not \(1, 3\)"),
        ({"pool": "avg"}, UsageError, "pool= takes mean, max or cls, not 'avg'"),
        ({"layers": 9}, UsageError, "this model has layers 0 to 3, not 9"),
        ({"model": "gone.h5"}, WeightsError, "gone.h5: no such checkpoint"),
    ],
)
def test_a_wrong_parameter_is_refused_when_it_is_fitted(
    how: dict[str, Any], error: type[Exception], message: str
) -> None:
    embedder = Embedder(**{"model": TOY, **how})
    with pytest.raises(error, match=message):
        embedder.fit(SEQUENCES)
    with pytest.raises(InputError, match="record 1"):
        Embedder(TOY).fit_transform(["!"])


PROGRAM = """
import sys
import joblib
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from protrna_cli import Embedder, embed, load_model

SEQUENCES, CLASSES, path = {sequences!r}, {classes!r}, {path!r}

if __name__ == "__main__":
    model = load_model("demo")
    for step in (
        Embedder("demo"), Embedder(model), FunctionTransformer(embed, kw_args=dict(model=model))
    ):
        pipeline = make_pipeline(step, LogisticRegression(max_iter=9999))
        scores = [cross_val_score(clone(pipeline), SEQUENCES, CLASSES, cv=2, n_jobs=n) for n in (1, 2)]
        assert (scores[0] == scores[1]).all() and scores[0].mean() > 0.5
        pipeline.fit(SEQUENCES, CLASSES)
        joblib.dump(pipeline, path)
    print(*pipeline.predict_proba(SEQUENCES).ravel())
"""


@pytest.mark.slow(seconds=20)
def test_a_pipeline_is_cross_validated_in_two_processes_and_saved(tmp_path: Path) -> None:
    """Saved by one process, it predicts the same in another; none says anything of TensorFlow's."""
    path = str(tmp_path / "pipeline")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(sequences=SEQUENCES, classes=CLASSES, path=path))
    first = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=600)
    assert first.stderr == ""
    script = f"import joblib; print(*joblib.load({path!r}).predict_proba({SEQUENCES!r}).ravel())"
    second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert Path(path).stat().st_size < 20_000
