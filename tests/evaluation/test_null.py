"""Studies in which nothing is to be found: every test that the report concludes from finds it as often as it says it would."""

import importlib.util
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "null_calibration.py"
STUDIES = 40


@pytest.mark.slow
def test_primary_tests_find_nothing_more_often_than_chance_does():
    spec = importlib.util.spec_from_file_location("null_calibration", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    table = module.table(STUDIES, 60).set_index("test")
    assert len(module.PRIMARY) == 15 and set(module.PRIMARY) < set(table.index)
    # One sound test passes this limit once in 10,000 times, so that all of them together seldom do.
    limit = binom.ppf(0.9999, STUDIES, 0.05) / STUDIES
    assert (table.loc[list(module.PRIMARY), "rate"] <= limit).all(), table
    # Nor do they reject next to never, all together: 15 tests x 40 studies.
    assert table.loc[list(module.PRIMARY), "rate"].mean() > 0.02
    # The paper's rule is reproduced, not trusted: it takes folds that share patients for independent.
    trusted = "two equal encoders, combined: guarded Nadeau-Bengio (5 %)"
    assert table.loc[module.RULE, "rate"] > table.loc[trusted, "rate"]
    assert table.loc[module.SETS, "rate"] == pytest.approx(0.1, abs=0.03)
