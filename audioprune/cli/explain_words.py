"""`audioprune explain` for a Whisper with its decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import options as o
from .console import err, out, progress


def explain_words(clip: Path, model: str, chosen: Any, target: Path, device: str, dtype: str, as_json: bool) -> None:
    """Transcribe the first window of a clip, draw what was kept of it, and say it.

    chosen: the method, as `options.choose_method` returns it.
    """
    from ..audio.files import load_audio
    from ..plots import save
    from ..transcribing.explanation import explain, figure, options_for
    from ..transcribing.parts import WhisperParts
    from ..transcribing.recognizer import Recognizer

    o.quiet()
    parts = WhisperParts.read(model)
    sound = load_audio(clip, max_seconds=parts.window_seconds)
    with progress("steps", brief=True) as bar:
        task = bar.add_task("Transcribing", total=3)
        loaded = parts.load(o.pick_device(device), o.parse_dtype(dtype))
        method = chosen.for_model(loaded)
        bar.advance(task)
        recognizer = Recognizer(loaded, parts, options_for(parts))
        found = explain(recognizer, method, sound.waveform)
        bar.advance(task)
        save(figure(found, title=f"{clip.name} · {method}"), target)
        bar.advance(task)
    if sound.is_cut:
        err.print(f"note: only the first {sound.heard_seconds:g} s of {clip} are explained", soft_wrap=True)
    if as_json:
        row = {
            "picture": str(target),
            "text": found.transcript.text,
            "unpruned": found.unpruned.text,
            "words": [vars(word) for word in found.words],
            "positions": len(found.holder),
            "tokens": [
                {"start": s, "positions": n} for s, n in zip(found.starts.tolist(), found.sizes.tolist(), strict=True)
            ],
        }
        print(json.dumps(row))
        return
    out.print(f"{clip}: {found.transcript.text}", soft_wrap=True)
    if found.transcript.text != found.unpruned.text:
        out.print(f"  unpruned: {found.unpruned.text}", soft_wrap=True)
    out.print(f"  {len(found.holder)} positions of 20 ms in {len(found.sizes)} tokens", soft_wrap=True)
    out.print(f"→ {target}", soft_wrap=True)
