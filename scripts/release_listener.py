"""Turn a finished training into the shipped listener: float16 weights, processor, and model card.

    python scripts/release_listener.py runs/listener/seed0 audioprune/assets/listener --data PATH
    python scripts/release_listener.py runs/ear/seed0 checkpoints/listener-ear --data PATH --ear EAR

PATH holds `esc10/` and `fsdd/`, and with an ear `commands/` and `speech/` too. The script measures the held-out
accuracies again, on the weights as they are stored. With `--ear`, the weights of Whisper are left out: EAR, a folder or
a hub id, has them. A listener with an ear that answers less than 85 % of a kind of question, or less than 30 points
more than without hearing, is not released.
"""

# ruff: noqa: E501 (the card is prose)
from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from listener import held_out_sets, join_ear, save_without_ear, summary
from release_checkpoint import DATA, attribution

HELD_OUT = {"5"}
FIRST_SEED, SETS, SCENES = 9_000, 5, 60
CARD = """# The listener

A small audio-language model of Qwen2-Audio's class (`Qwen2AudioForConditionalGeneration`, loaded by transformers as it is): an encoder of width {width} and {audio_layers} blocks over up to 10 s of sound (25 audio tokens a second), a language model of {text_layers} blocks, {words} words; {parameters:.1f} million parameters, stored as float16 safetensors ({megabytes:.1f} MB).

It hears one to four spoken digits over two everyday sounds, one after the other, and answers three questions, in these words: `which digits , in order ?`, `what was heard first , the rain or the dog ?` (baby, chainsaw, clock, dog, fire, helicopter, sneeze, rain, rooster, sea), `how many digits ?`

**Meant for** audioprune's own measurements, examples and tests: it exists so that what pruning costs can be seen. It knows the voices of six speakers and is no good for anything else; it always answers something.

**Training.** `python scripts/train_listener.py train --data PATH --out runs/listener/seed0`: {steps} steps of {batch} scenes, mixed anew in each step from the training takes of the digits and ESC-10's folds 1 to 4; of these, {warmup} steps train the encoder alone to say of each token what is heard in it. Then {thinned} steps in which the language model alone learns on, with a random part of each sound's tokens left out (10 to 100 % stay): without these it takes a sound of fewer tokens for another sound. No method of choosing tokens had a part in its training. Running average of the weights (its decay was changed once, from 0.998 to 0.99, at step 2200); nothing was chosen on the test sounds.

**Measured** on these weights as they are stored, in float32, greedily, on {sets} × {scenes} scenes of sounds that it never heard (FSDD's test takes, ESC-10's fold 5); right is what is right word for word; mean ± standard deviation over the {sets} sets. Without hearing: the better of the same model given silence, and the best fixed answer.

| question | right | without hearing |
|---|---:|---:|
{table}

**Input.** 16 kHz mono, by its processor: Whisper's log-mel of {mels} channels, padded to 10 s.

**Data and licence.** {esc} {fsdd} The weights are Apache-2.0, like the project.
"""
EAR_CARD = """# The listener with a real ear

The adapter and the language model of an audio-language model of Qwen2-Audio's class (`Qwen2AudioForConditionalGeneration`), whose encoder is that of Whisper tiny.en, frozen: {parameters:.2f} million parameters in {text_layers} blocks of width {width}, {words} words, stored as float16 safetensors ({megabytes:.1f} MB). Whisper's weights are not contained. This command makes the whole model; EAR is a folder with Whisper tiny.en in transformers' form, or `openai/whisper-tiny.en` where there is a network:

    python scripts/train_listener.py join --model checkpoints/listener-ear --ear EAR --out runs/listener-ear

It hears scenes of up to 16 s: two everyday sounds and read speech that a third sound interrupts, one after the other in any order, with one to four spoken words before, between and after them. It answers five questions, in these words: `which words , in order ?`, `how many words ?`, `what was heard first , the rain or the talk ?`, `what was said between the dog and the talk ?`, `which sound interrupts the talk ?` (sounds: baby, chainsaw, clock, dog, fire, helicopter, sneeze, rain, rooster, sea; words: the digits, yes, no, up, down, left, right, on, off, stop, go).

**Meant for** audioprune's own measurements: it exists so that what pruning costs can be seen on a real encoder. It is no good for anything else; it always answers something.

**Training.** `python scripts/train_listener.py hear` and `train --ear`: {rounds} rounds, each beginning with the weights of the one before, of {steps} steps of {batch} scenes out of {heard}, heard once by the frozen encoder, with new questions each time; {recomposed:.0%} of the scenes were put together from parts of these. The adapter began with a linear discriminant analysis of words and sounds. In {thinned:.0%} of the batches a random part of each sound's tokens was left out: without these it takes a sound of fewer tokens for another sound. No method of choosing tokens had a part in its training. Running average of the weights. The number of rounds and the length of the sounds were chosen when answers about the test sounds were known; nothing else was chosen on them.

**Measured** on these weights as they are stored, in float32, greedily, on {sets} × {scenes} scenes of speakers and sounds that it never heard (a third of the speakers of each set, ESC-10's fold 5); right is what is right word for word; mean ± standard deviation over the {sets} sets. Without hearing: the better of the same model given silence, and the best fixed answer.

| question | right | without hearing |
|---|---:|---:|
{table}

**Input.** 16 kHz mono, by its processor: Whisper's log-mel of {mels} channels, padded to 30 s.

**Data and licence.** {esc} The Free Spoken Digit Dataset (Z. Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset) is distributed under CC BY-SA 4.0: all recordings of four of its six speakers were trained on. Speech Commands v0.02 (P. Warden, arXiv 1804.03209) is distributed under CC BY 4.0. Read speech: LibriSpeech (V. Panayotov and others, 2015; CC BY 4.0), LJSpeech and LibriVox (public domain). No recording is contained here. The weights are Apache-2.0, like the project.
"""
LEAST, ABOVE_DEAF = 85.0, 30.0
"""What a listener with an ear must have, in percent, and how many points more than without hearing."""


def store(run: Path, out: Path) -> None:
    """Store the model of a training as float16, and its processor."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(run / "model")
    model.set_attn_implementation("sdpa")
    model.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    # Stored as float16 to be small. The config asks for float32, so that it is loaded as float32.
    config = {name: "float32" if name == "dtype" else value for name, value in config.items()}
    for part in ("audio_config", "text_config"):
        config[part] = {name: "float32" if name == "dtype" else value for name, value in config[part].items()}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    AutoProcessor.from_pretrained(run / "model").save_pretrained(out)


def too_weak(kinds: dict[str, dict]) -> list[str]:
    """The kinds of question that a listener with an ear does not answer well enough."""
    return [
        f"{kind} {found['mean']:.1f} % (without hearing {found['text only']:.1f} %)"
        for kind, found in kinds.items()
        if found["mean"] < LEAST or found["mean"] - found["text only"] < ABOVE_DEAF
    ]


def rounds(run: Path) -> int:
    """Trainings up to this one, each of which began with the weights of another in the same folder."""
    before = json.loads((run / "settings.json").read_text()).get("begin_with")
    return 1 + (rounds(run.parent / before) if before else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ear", help="folder or hub id of the Whisper model whose encoder the listener has")
    args = parser.parse_args()
    if args.ear and args.out.exists():
        raise SystemExit(f"{args.out}: exists; choose another folder, since one that hears too little is removed again")
    if args.ear:
        whole = Qwen2AudioForConditionalGeneration.from_pretrained(args.run / "model", dtype="float32")
        save_without_ear(whole, args.out)
        AutoProcessor.from_pretrained(args.run / "model").save_pretrained(args.out)
        model = join_ear(args.out, args.ear)
    else:
        store(args.run, args.out)
        model = Qwen2AudioForConditionalGeneration.from_pretrained(args.out).float().eval()
    processor = AutoProcessor.from_pretrained(args.out)
    sets = held_out_sets(processor, args.data, "test", range(FIRST_SEED, FIRST_SEED + SETS), SCENES)
    kinds = summary(model, processor, sets)
    if args.ear and (weak := too_weak(kinds)):
        shutil.rmtree(args.out)
        raise SystemExit(f"not released: {', '.join(weak)}; train for longer, or on more scenes")
    text = card(args, model, kinds)
    (args.out / "README.md").write_text(text)
    print(text)


def card(args: argparse.Namespace, model: Any, kinds: dict[str, dict]) -> str:
    rows = [f"| {k} | {f['mean']:.1f} ± {f['std']:.1f} | {f['text only']:.1f} |" for k, f in kinds.items()]
    settings = json.loads((args.run / "settings.json").read_text())
    licences = ", ".join(
        f"{name} ({n})" for name, n in attribution(args.data / "esc10", args.out, HELD_OUT).most_common()
    )
    audio, language = model.config.audio_config, model.config.text_config
    own = [p for name, p in model.named_parameters() if not (args.ear and "audio_tower" in name)]
    return (EAR_CARD if args.ear else CARD).format(
        **settings,
        rounds=rounds(args.run),
        width=language.hidden_size,
        audio_layers=audio.encoder_layers,
        text_layers=language.num_hidden_layers,
        words=language.vocab_size,
        mels=audio.num_mel_bins,
        parameters=sum(parameter.numel() for parameter in own) / 1e6,
        megabytes=(args.out / "model.safetensors").stat().st_size / 1e6,
        sets=SETS,
        scenes=SCENES,
        table="\n".join(rows),
        esc=DATA["esc10"].format(licences=licences),
        fsdd=DATA["fsdd"].format(clips=2700),
    )


if __name__ == "__main__":
    main()
