"""Library modules that are imported when they are first used."""

import importlib
import sys

import pytest

from xrayfast.learning.deferred_imports import deferring

DEFERRED = {"toy": [], "toy.inner": ["double"]}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package that records when its modules are executed."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("import sys\nsys.toy_log.append('toy')\nfrom toy.other import five\n")
    (folder / "inner.py").write_text(
        "import sys\nsys.toy_log.append('inner')\ndef double(x, *, times=2): return times * x\nanswer = 42\n"
        "class Pair(tuple):\n    def first(self): return self[0]\n"
    )
    (folder / "other.py").write_text("import sys\nsys.toy_log.append('other')\nfive = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "toy_log", [], raising=False)
    yield sys.toy_log
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]


def test_a_function_imports_its_module_when_it_is_called(toy):
    with deferring(DEFERRED):
        import toy.inner as module
        from toy.inner import double
    assert not toy and "toy" not in sys.modules and "toy.inner" not in sys.modules
    assert double(4, times=3) == 12
    assert toy == ["toy", "other", "inner"]
    assert module.answer == 42 and module.double(1) == 2
    assert toy == ["toy", "other", "inner"], "once"


def test_a_method_of_a_class_may_be_taken_without_its_module(toy):
    with deferring({**DEFERRED, "toy.inner": ["Pair.first"]}):
        import toy.inner as module

        first = module.Pair.first
    assert not toy
    assert first((6, 7)) == 6 and module.Pair((8, 9)).first() == 8
    assert isinstance(module.Pair, type)


def test_modules_that_are_not_named_are_imported_within_the_block(toy):
    with deferring(DEFERRED):
        from toy.inner import answer, double
    assert answer == 42 and double(3) == 6
    assert toy == ["toy", "other", "inner"]


def test_a_later_import_gets_the_real_module(toy):
    with deferring(DEFERRED):
        import toy.inner as stand_in
    module = importlib.import_module("toy.inner")
    assert module is not stand_in and stand_in.double is module.double
    assert stand_in.answer == module.answer
    assert sys.modules["toy"].inner is module


def test_a_module_that_is_already_imported_is_not_replaced(toy):
    module = importlib.import_module("toy.inner")
    with deferring(DEFERRED):
        import toy.inner as found
    assert found is module and sys.modules["toy.inner"] is module


def test_a_further_module_of_the_package_is_an_import_error_rather_than_there_twice(toy):
    with pytest.raises(ImportError), deferring(DEFERRED):
        importlib.import_module("toy.other")
    assert importlib.import_module("toy.other").five == 5
    assert toy == ["toy", "other"]


def test_fastai_uses_what_it_imported():
    """This runs in a new process, because here other tests may have imported fastai before xrayfast."""
    import numpy as np
    from fastai.data.transforms import TrainTestSplitter
    from fastai.learner import format_time
    from fastai.metrics import RocAucBinary, scs
    from fastai.torch_core import progress_bar
    from scipy.stats import pearsonr
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    import xrayfast.learning.fastai_api  # noqa: F401

    train, valid = train_test_split(list(range(9)), test_size=0.3, random_state=1)
    assert TrainTestSplitter(test_size=0.3, random_state=1)(list(range(9))) == (train, valid)
    assert format_time(3661) == "1:01:01"
    assert list(progress_bar(range(3), display=False)) == [0, 1, 2]
    truth, score = np.array([0, 1, 1, 0]), np.array([0.2, 0.7, 0.4, 0.5])
    assert RocAucBinary().func(truth, score) == roc_auc_score(truth, score)
    assert scs.pearsonr(truth, score) == pearsonr(truth, score)
