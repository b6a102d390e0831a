import pandas as pd
import pytest

from neurorad.explanation.selection import chosen_scans
from neurorad.problems import InputError


@pytest.fixture
def predictions() -> pd.DataFrame:
    scores = [0.9, 0.1, 0.5, 0.95, 0.05, 0.7]
    return pd.DataFrame(
        {
            "cohort": "ucsf-pdgm",
            "patient": [f"p{i}" for i in range(6)],
            "scan": [f"s{i}" for i in range(6)],
            "label": [1, 0, 1, None, 0, 1],
            "score": scores,
        }
    )


def test_extremes_with_known_labels_in_equal_shares(predictions):
    # s3 has the highest score but no label.
    assert list(chosen_scans(predictions, predictions, 4)["scan"]) == ["s0", "s5", "s1", "s4"]


def test_order_of_rows_decides_nothing(predictions):
    predictions["score"] = 0.5
    expected = chosen_scans(predictions, predictions, 4)
    shuffled = predictions.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(chosen_scans(shuffled, shuffled, 4), expected)


def test_one_scan_a_patient_and_only_scans_with_a_volume(predictions):
    predictions.loc[5, "patient"] = "p0"
    chosen = chosen_scans(predictions, predictions[predictions["scan"] != "s4"], 2)
    assert list(chosen["scan"]) == ["s0", "s1"]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_shares_must_be_equal(predictions, number):
    with pytest.raises(InputError, match="even"):
        chosen_scans(predictions, predictions, number)


def test_too_few_patients_is_an_error_with_the_number(predictions):
    with pytest.raises(InputError, match="only 5 patients"):
        chosen_scans(predictions, predictions, 6)
