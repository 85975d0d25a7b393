"""The folder of weights, also for a user without a home folder."""

from __future__ import annotations

import pwd
from pathlib import Path

import platformdirs
import pytest

from protrna_cli.errors import WeightsError
from protrna_cli.run import auto
from protrna_cli.weights.checkpoint import locate, weights_folder, weights_folder_if_any
from tests.conftest import TOY


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom no environment variable and no entry in the table of users gives a home folder."""
    for name in ("HOME", "PROTRNA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("earlier", [False, True])
def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    if earlier:  # as platformdirs 4.3: a path that a shell would have to expand
        monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    assert weights_folder_if_any() is None
    with pytest.raises(WeightsError, match="set PROTRNA_HOME or --weights-dir"):
        weights_folder()
    with pytest.raises(WeightsError, match="no home folder"):
        locate("protrna")
    locate("demo")
    assert locate(str(TOY)).sha256()
    file = auto.rates_file()
    auto.remember(file, "key", 1.0)
    assert auto.recall(file, "key") == []


@pytest.mark.usefixtures("homeless")
def test_a_folder_that_is_named_needs_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_folder("given") == Path("given")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert weights_folder() == Path("/caches/protrna")
    monkeypatch.setenv("PROTRNA_HOME", "/weights")
    assert weights_folder() == Path("/weights")
