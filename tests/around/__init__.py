"""What people do around a model that is pruned, each thing tried, and the page that tells what came of it."""

from .cases import CASES, Case
from .page import PAGE, page, said
from .subjects import KINDS, SUBJECTS, Subject

__all__ = ["CASES", "KINDS", "PAGE", "SUBJECTS", "Case", "Subject", "page", "said"]
