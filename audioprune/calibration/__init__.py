"""Which setting keeps a model's answers on one's own sounds, found without labels and stated with its certainty."""

from .bounds import clips_needed, upper_bound
from .report import Calibration
from .run import calibrate
from .words import WordCalibration, calibrate_words

__all__ = ["Calibration", "WordCalibration", "calibrate", "calibrate_words", "clips_needed", "upper_bound"]
