"""Turn a finished training into the shipped listener: float16 weights, processor, and model card.

    python scripts/release_listener.py runs/listener/seed0 audioprune/assets/listener --data PATH

PATH holds `esc10/` and `fsdd/`. The script measures the held-out accuracies again, on the weights as they are stored.
"""

# ruff: noqa: E501 (the card is prose)
from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from listener import held_out_sets, summary
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    store(args.run, args.out)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(args.out).float().eval()
    processor = AutoProcessor.from_pretrained(args.out)
    sets = held_out_sets(processor, args.data, "test", range(FIRST_SEED, FIRST_SEED + SETS), SCENES)
    rows = [
        f"| {kind} | {found['mean']:.1f} ± {found['std']:.1f} | {found['text only']:.1f} |"
        for kind, found in summary(model, processor, sets).items()
    ]
    settings = json.loads((args.run / "settings.json").read_text())
    licences = ", ".join(
        f"{name} ({n})" for name, n in attribution(args.data / "esc10", args.out, HELD_OUT).most_common()
    )
    config = model.config
    card = CARD.format(
        width=config.audio_config.d_model,
        audio_layers=config.audio_config.encoder_layers,
        text_layers=config.text_config.num_hidden_layers,
        words=config.text_config.vocab_size,
        mels=config.audio_config.num_mel_bins,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=(args.out / "model.safetensors").stat().st_size / 1e6,
        steps=settings["steps"],
        warmup=settings["warmup"],
        batch=settings["batch"],
        thinned=settings["thinned"],
        sets=SETS,
        scenes=SCENES,
        table="\n".join(rows),
        esc=DATA["esc10"].format(licences=licences),
        fsdd=DATA["fsdd"].format(clips=2700),
    )
    (args.out / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
