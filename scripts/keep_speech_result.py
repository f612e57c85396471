"""Copy the result of an `audioprune eval-asr` without what was said: figures may stay with the project, words may not.

python scripts/keep_speech_result.py runs/speech/eval-asr.json results/whisper-tiny.en.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from audioprune.files import write_text

WORDS = ("text", "reference")


def without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_words(part) for name, part in value.items() if name not in WORDS}
    if isinstance(value, list):
        return [without_words(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


def as_json(result: dict[str, Any]) -> str:
    """JSON with a line for each clip, since it has many figures."""
    clips = ",\n  ".join(json.dumps(clip) for clip in result.pop("by_clip", []))
    whole = json.dumps(result, indent=1)
    return f'{whole[:-2]},\n "by_clip": [\n  {clips}\n ]\n}}\n' if clips else whole + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("kept", type=Path)
    asked = parser.parse_args()
    write_text(asked.kept, as_json(without_words(json.loads(asked.result.read_text()))))


if __name__ == "__main__":
    main()
