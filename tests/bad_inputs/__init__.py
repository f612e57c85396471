"""Bad and odd inputs as data, what is said of each, and the page that tells it: docs/bad-inputs.md.

`python -m tests.bad_inputs > docs/bad-inputs.md` writes the page anew.
"""

from .cases import CASES, Case
from .meeting import Outcome, everything, stage
from .page import PAGE, page

__all__ = ["CASES", "PAGE", "Case", "Outcome", "everything", "page", "stage"]
