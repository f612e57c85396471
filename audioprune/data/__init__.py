"""Data sets on disk: a reader for each, one table of clips for all, and a cache of decoded sounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import esc, fsdd
from .audioset import has_lists, read_audioset
from .cache import SoundCache
from .esc import read_esc10, read_esc50
from .files import has_sounds, subfolders
from .folders import read_folders
from .fsdd import read_fsdd_digits, read_fsdd_speakers
from .manifest import has_split_manifest, read_manifest
from .speech_commands import TEST, VALIDATION, read_speech_commands
from .table import ClipRow, ClipTable, DataError, Split, check
from .voxceleb import SPLIT, read_voxceleb1

__all__ = [
    "DATASETS",
    "ClipRow",
    "ClipTable",
    "DataError",
    "SoundCache",
    "Split",
    "check",
    "read",
    "read_audioset",
    "recognise",
]

DATASETS: dict[str, Callable[[Path], ClipTable]] = {
    "esc10": read_esc10,
    "esc50": read_esc50,
    "speech-commands": read_speech_commands,
    "voxceleb1": read_voxceleb1,
    "audioset": read_audioset,
    "fsdd-digits": read_fsdd_digits,
    "fsdd-speakers": read_fsdd_speakers,
    "folders": read_folders,
    "manifest": read_manifest,
}
"""Name → reader. A reader takes the folder and raises `DataError`."""

_LAYOUTS = f"""  esc50            {esc.META} and audio/
  esc10, esc50     manifest.csv with path, label and fold
  speech-commands  {VALIDATION} and {TEST} beside the words' folders
  voxceleb1        {SPLIT}
  audioset         class_labels_indices.csv and segment lists (CSV or JSON)
  fsdd-*           recordings/ with digit_speaker_take.wav, or manifest.csv with path, digit, speaker and split
  folders          a folder of sounds for each class
  manifest         manifest.csv with path, label and split (train, validation or test)"""


def read(folder: str | Path, name: str | None = None) -> ClipTable:
    """Read the clips of a data set.

    Args:
        folder: the folder of the unpacked data set.
        name: one of `DATASETS`; by default the layout decides.

    Raises `DataError` if the folder does not exist, if the name or layout is unknown, and for all problems that `check`
    finds.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}; give the data set's folder"
        )
    if name is not None and name not in DATASETS:
        raise DataError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    try:
        return DATASETS[name or recognise(folder)](folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error})") from error


def recognise(folder: Path) -> str:
    """Name of the data set with this layout. Raises `DataError` if there is none, or more than one."""
    if (folder / esc.META).is_file():
        return "esc50"
    if esc.has_manifest(folder):
        return esc.manifest_name(folder)
    if has_split_manifest(folder):
        return "manifest"
    if fsdd.has_recordings(folder):
        raise DataError(f"{folder}: this set has two tasks; choose fsdd-digits or fsdd-speakers")
    if (folder / VALIDATION).is_file() and (folder / TEST).is_file():
        return "speech-commands"
    if (folder / SPLIT).is_file():
        return "voxceleb1"
    if has_lists(folder):
        return "audioset"
    if any(has_sounds(place) for place in subfolders(folder)):
        return "folders"
    raise DataError(f"{folder}: no known layout; looked for\n{_LAYOUTS}")
