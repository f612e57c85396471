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


def as_json(value: Any, indent: str = "") -> str:
    """JSON with a line for each row of a list, and one for each setting."""
    deeper = indent + " "
    if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        parts = [f"{deeper}{json.dumps(name)}: {as_json(part, deeper)}" for name, part in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        rows = [as_json(part, deeper) if isinstance(part, list) else json.dumps(part) for part in value]
        return "[\n" + ",\n".join(f"{deeper}{row}" for row in rows) + f"\n{indent}]"
    return json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("kept", type=Path)
    asked = parser.parse_args()
    write_text(asked.kept, as_json(without_words(json.loads(asked.result.read_text()))) + "\n")


if __name__ == "__main__":
    main()
