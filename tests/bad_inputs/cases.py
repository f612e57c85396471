"""Every input and what is expected of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import audioprune as ap
from audioprune.data import read
from audioprune.training.recipe import read_recipe


@dataclass(frozen=True)
class Case:
    """An input, as words of the command line, and what is expected.

    given: in words, for the page. words: the command, where {port} is one in use. said: what the message must match;
    what another library says is matched by a group called "theirs", and left out of the page. python: the same input
    given to the library, which must raise what matches `python_said`, or `said`; None where there is no such thing.
    code: exit code. lines: of the message, at most. needs: package without which it cannot be met.
    """

    given: str
    words: str
    said: str
    python: Callable[[], Any] | None = None
    python_said: str | None = None
    code: int = 2
    lines: int = 3
    needs: str | None = None

    @property
    def is_met(self) -> bool:
        """Whether it can be tried here."""
        return self.needs is None or find_spec(self.needs) is not None


def tiny() -> Any:
    return ap.load("tiny")


def pruned(method: ap.Method | str) -> Any:
    return ap.prune(tiny(), method)


TAG = "--model tiny --keep-rate 0.5"
INTO = f"{TAG} --out results.jsonl"
UNDECODED = r"cannot be decoded as audio \((?P<theirs>.+)\); convert it to WAV or FLAC"
ASK = "'how many digits ?'"
RATE = r"keep_rate is .*; it is the share of tokens that stay at each pruned layer, more than 0 and at most 1"


def bad_sound(given: str, name: str, said: str) -> Case:
    """A file that gets a row with its error, and raises it from `load_audio`."""
    return Case(given, f"tag {name} {INTO}", said, lambda: ap.load_audio(name), code=1)


def bad_media(given: str, name: str, said: str) -> Case:
    """As `bad_sound`, of a format that FFmpeg decodes."""
    return replace(bad_sound(given, name, said), needs="av")


def odd_sound(given: str, name: str, said: str, model: str = "esc10") -> Case:
    return Case(given, f"tag {name} --model {model} --keep-rate 0.7 --json", said, code=0)


def bad_rate(given: str, rate: str) -> Case:
    return Case(
        given, f"tag a.wav --model tiny --keep-rate={rate} --out results.jsonl", RATE, lambda: ap.TopK(float(rate))
    )


def bad_settings(given: str, name: str, said: str, python_said: str | None = None) -> Case:
    return Case(
        given, f"tag a.wav --model tiny --method {name} --out new.jsonl", said, lambda: pruned(name), python_said
    )


def bad_model(given: str, name: str, said: str) -> Case:
    return Case(
        given,
        f"tag a.wav --model {name} --keep-rate 0.5 --out new.jsonl",
        said,
        lambda: ap.prune(ap.load(name), ap.TopK(0.5)),
    )


def export(given: str, words: str, said: str) -> Case:
    return Case(given, f"export tiny {words} --keep-rate 0.5 --no-time", said, needs="onnxscript")


CASES: dict[str, list[Case]] = {
    "Sound files": [
        bad_sound("an empty file", "empty.wav", r"empty\.wav: the file is empty.*record or copy it again"),
        bad_sound("bytes that are no sound", "corrupt.wav", rf"corrupt\.wav: {UNDECODED}"),
        bad_sound("a text named .wav", "text.wav", rf"text\.wav: {UNDECODED}"),
        bad_sound("a WAV that ends within its header", "header.wav", rf"header\.wav: {UNDECODED}"),
        bad_sound("a FLAC cut in half", "half.flac", rf"half\.flac: {UNDECODED}.*copy it again if it is damaged"),
        bad_media(
            "a video whose end is missing", "movie.mp4", r"movie\.mp4: is incomplete: its index \(moov\) is missing"
        ),
        bad_media("a text named .m4a", "text.m4a", rf"text\.m4a: {UNDECODED}"),
        bad_media("a video without sound", "mute.mp4", r"mute\.mp4: has no sound track; give a file with sound"),
        bad_media(
            "a song that is protected",
            "bought.m4a",
            r"bought\.m4a: is protected against copying \(DRM\).*use a free copy",
        ),
        bad_media("a list of other files named .m4a", "list.m4a", rf"list\.m4a: {UNDECODED}"),
        bad_sound("0.01 s", "10ms.wav", r"10ms\.wav: 10 ms is too short; a spectrogram needs 25 ms"),
        bad_sound(
            "a NaN among the samples", "nan.wav", r"nan\.wav: contains NaN or infinite samples; repair or re-export it"
        ),
        bad_sound("an infinite sample", "inf.wav", r"inf\.wav: contains NaN or infinite samples; repair or re-export"),
        Case(
            "one good sound and one that is none",
            f"tag mixed {INTO}",
            rf"LABEL_\d+; .*mixed/text\.wav: {UNDECODED}",
            code=1,
        ),
        Case(
            "a name with a line break",
            f"tag 'two\nlines.wav' {INTO}",
            rf"two\nlines\.wav: {UNDECODED}",
            lambda: ap.load_audio("two\nlines.wav"),
            code=1,
            lines=4,
        ),
        Case(
            "a name that is no Unicode",
            f"tag '{os.fsdecode(b'odd-' + bytes([255]))}.wav' {INTO}",
            rf"odd-.\.wav: {UNDECODED}",
            code=1,
        ),
        Case(
            "a file that is not there",
            f"tag gone.wav {INTO}",
            r"gone\.wav: no such file",
            lambda: ap.load_audio("gone.wav"),
        ),
        Case("a folder without sounds", f"tag no-sounds {INTO}", "no sound files in no-sounds"),
        Case(
            "a folder for a sound",
            f"explain no-sounds {TAG} --out old.png",
            r"no-sounds: is not a file; name the sound itself",
            lambda: ap.load_audio("no-sounds"),
        ),
        Case("a text named .wav, to be drawn", f"explain text.wav {TAG} --out old.png", rf"text\.wav: {UNDECODED}"),
        odd_sound("a WAV cut in half: what is there is heard", "half.wav", r"0\.50 of 0\.50 s heard", "tiny"),
        odd_sound("0.05 s", "50ms.wav", r"0\.05 of 0\.05 s heard", "tiny"),
        Case(
            "two hours, of which the beginning is asked for: no more is decoded",
            "tag two-hours.flac --model esc10 --keep-rate 0.7 --json --window first",
            r"of 7200\.00 s heard",
            code=0,
        ),
        odd_sound(
            "half a minute: it is heard whole, in windows", "half-minute.wav", r"30\.00 of 30\.00 s heard", "tiny"
        ),
        Case(
            "windows with gaps between them",
            f"tag half-minute.wav {TAG} --hop 9 --out results.jsonl",
            r"hop is 9 s; .* at most the window, 1\.295 s, or parts of the sound would not be heard",
            lambda: ap.Stream(tiny(), ap.LogMel(128), window=9.0),
            r"window is 9\.0; it must be .*, which is all that the model hears at once",
        ),
        Case(
            "a window longer than the model hears",
            f"tag half-minute.wav {TAG} --window 20 --out results.jsonl",
            r"window is 20 s; .* at most 1\.295 s, which is all that the model hears at once",
        ),
        replace(
            odd_sound("a chainsaw, recorded by a phone", "phone.m4a", r"chainsaw; 5\.00 of 5\.00 s heard"), needs="av"
        ),
        odd_sound("silence: the model has to name something", "silent.wav", r"; 1\.00 of 1\.00 s heard"),
        odd_sound("a chainsaw, stereo: the mean of the channels", "stereo.wav", "chainsaw; 5"),
        odd_sound("a chainsaw at 8 kHz", "8kHz.wav", "chainsaw; 5"),
        odd_sound("a chainsaw at 96 kHz", "96kHz.wav", "chainsaw; 5"),
    ],
    "Arguments": [
        bad_rate("a keep rate of 0", "0"),
        bad_rate("above 1", "1.3"),
        bad_rate("below 0", "-0.5"),
        bad_rate("no number", "nan"),
        bad_rate("an infinite one", "inf"),
        Case(
            "a text",
            "tag a.wav --model tiny --keep-rate half",
            r"keep.rate is 'half'; (give numbers|it is the share)",
            lambda: ap.TopK("half"),
        ),  # type: ignore[arg-type]
        Case(
            "nothing",
            "tag a.wav --model tiny --keep-rate ''",
            r"keep.rate is (''|\[\]); (give numbers|it is the share)",
            lambda: ap.TopK([]),
        ),
        Case(
            "two keep rates for three layers",
            "tag a.wav --model tiny --keep-rate 0.9,0.8 --out new.jsonl",
            r"2 keep rates for 3 pruned layers \(1, 2, 3\); give one each",
            lambda: pruned(ap.TopK([0.9, 0.8])),
        ),
        Case(
            "a layer that is not there",
            f"tag a.wav {TAG} --layers 9 --out new.jsonl",
            "layer 9 does not exist: the model has 4 blocks, 0 … 3",
            lambda: pruned(ap.TopK(0.5, (9,))),
        ),
        Case(
            "a layer below 0",
            f"tag a.wav {TAG} --layers=-1",
            "layers are .*give 0-based block indices",
            lambda: ap.TopK(0.5, (-1,)),
        ),
        Case(
            "a layer twice",
            f"tag a.wav {TAG} --layers 1,1",
            "layers are .*must ascend without repeats",
            lambda: ap.TopK(0.5, (1, 1)),
        ),
        Case(
            "layers as text",
            f"tag a.wav {TAG} --layers some",
            "layers (is|are) 'some'; give",
            lambda: ap.TopK(0.5, "some"),
        ),  # type: ignore[arg-type]
        Case(
            "no segments",
            f"tag a.wav {TAG} --segments 0",
            "segments is 0; .*at least 1",
            lambda: ap.TopK(0.5, segments=0),
        ),
        Case(
            "more segments than tokens: as many as there are columns",
            f"tag a.wav {TAG} --segments 100 --json",
            "LABEL",
            code=0,
        ),
        Case("segments as text", f"tag a.wav {TAG} --segments many", "Invalid value for '--segments'.*valid integer"),
        Case(
            "an unknown method",
            f"tag a.wav {TAG} --method topkk",
            r"--method: no method 'topkk'; did you mean topk\? There are recommended, topk, .*; JSON files; folders",
            lambda: pruned("topkk"),
            "topkk: no such settings file or folder",
        ),
        Case(
            "a method that must be trained first",
            "tag a.wav --method dynamicvit",
            "dynamicvit .*train a model with it first .*give the folder of that training",
        ),
        Case(
            "an option that the method lacks",
            "tag a.wav --method tome --score cls",
            "tome .*takes no --score; besides --keep-rate it takes --layers",
            lambda: ap.ToMe(0.7, score="cls"),
            "unexpected keyword argument 'score'",
        ),  # type: ignore[call-arg]
        Case(
            "an unknown score",
            f"tag a.wav {TAG} --score loud",
            "score is 'loud'; TopK takes attention, cls",
            lambda: ap.TopK(0.5, score="loud"),
        ),  # type: ignore[arg-type]
        Case(
            "an unknown fate",
            f"tag a.wav {TAG} --dropped burn",
            "dropped is 'burn'; TopK takes discard, fuse, merge",
            lambda: ap.TopK(0.5, dropped="burn"),
        ),  # type: ignore[arg-type]
        Case(
            "a device that is not there",
            "tag a.wav --device tpu9",
            r"--device is 'tpu9', which PyTorch cannot use here \((?P<theirs>.+)\); use cpu",
        ),
        Case("an unknown dtype", "tag a.wav --dtype int8", "--dtype is 'int8'; there are float32, bfloat16, float16"),
        Case(
            "batches of nothing",
            "tag a.wav --batch-size 0",
            "Invalid value for '--batch-size'.*greater than or equal to 1",
        ),
        Case(
            "batches of nothing, to be measured",
            "bench --model tiny --batch-sizes 0",
            "--batch-sizes is '0'; each must be at least 1",
        ),
        Case("a misspelt option", "tag a.wav --keeprate 0.5", "No such option: --keeprate.*--keep-rate"),
        Case("a misspelt command", "tagg a.wav", "No such command 'tagg'.*'tag'"),
        Case("nothing to tag", "tag", "Missing argument"),
        Case(
            "a picture in a format that is not written",
            f"explain a.wav {TAG} --out a.jpg",
            r"a\.jpg: pictures are written as \.png, \.svg or \.pdf",
        ),
        Case(
            "a picture beneath a file",
            f"explain a.wav {TAG} --out a.wav/a.png",
            r"a\.wav: is a file where a folder is needed; choose another path",
        ),
        Case(
            "a file for a folder of pictures",
            "demo --out a.wav",
            r"a\.wav: is a file where a folder is needed; choose another path",
        ),
    ],
    "Settings files": [
        bad_settings("broken JSON", "broken.json", r"broken\.json: not a JSON settings file \((?P<theirs>.+)\)"),
        bad_settings("bytes", "binary.json", r"binary\.json: not a JSON settings file \((?P<theirs>.+)\)"),
        bad_settings("a list", "list.json", r'list\.json: expected {"method": …} with one of TopK'),
        bad_settings(
            "an unknown method", "unknown-method.json", r'unknown-method\.json: expected {"method": …} with one of TopK'
        ),
        bad_settings(
            "an unknown key",
            "unknown-key.json",
            r"unknown-key\.json: .*'colour'; TopK takes keep_rate, layers, bias, score",
        ),
        bad_settings("a keep rate as text", "wrong-type.json", rf"wrong-type\.json: {RATE}"),
        bad_settings("no keep rate", "no-rate.json", r"no-rate\.json: .*'keep_rate'; TopK takes keep_rate"),
        bad_settings(
            "a list for a score", "score-list.json", r"score-list\.json: score is \['cls'\]; TopK takes attention"
        ),
        bad_settings("segments as text", "segments-text.json", r"segments-text\.json: segments is '8'; it is a number"),
        bad_settings("a file that is not there", "gone.json", r"gone\.json: no such settings file or folder"),
        bad_settings("a folder without one", "folder", r"folder/pruning\.json: no such settings file or folder"),
        bad_settings(
            "layers of a deeper model", "layer-9.json", "layer 9 does not exist: the model has 4 blocks, 0 … 3"
        ),
        bad_settings(
            "weights that are not there",
            "weightless.json",
            r"no such file as gone\.safetensors; it belongs beside the pruning\.json",
        ),
        Case(
            "another model's pruning.json beside a model",
            "tag a.wav --model others-pruning --out new.jsonl",
            "layer 9 does not exist: the model has 4 blocks, 0 … 3",
            lambda: ap.load("others-pruning"),
        ),
    ],
    "Models and weight files": [
        bad_model(
            "an unknown name, without a network",
            "esc100",
            r"esc100: cannot be loaded \((?P<theirs>.+)\); give esc10 \(shipped\), a local folder or weight file",
        ),
        bad_model("a path that is not there", "./gone", r"gone: no such file or folder"),
        bad_model(
            "an empty folder",
            "empty-folder",
            r"empty-folder: no config\.json in this folder; give a model in transformers' format",
        ),
        bad_model(
            "a config without weights",
            "no-weights",
            r"no-weights: cannot be loaded \((?P<theirs>.+)\); download or save it again",
        ),
        bad_model(
            "a broken config",
            "broken-config",
            r"broken-config: cannot be loaded \((?P<theirs>.+)\); download or save it again",
        ),
        bad_model(
            "weights cut in half", "torn", r"torn: cannot be loaded \((?P<theirs>.+)\); download or save it again"
        ),
        bad_model(
            "weights of another shape",
            "other-shapes",
            r"other-shapes: \d+ tensors do not have the shape .*from different models: download or save them together",
        ),
        bad_model(
            "a .pth cut short",
            "torn.pth",
            r"torn\.pth: cannot be read as weights \((?P<theirs>.+)\)\. The file is truncated.*download it again",
        ),
        bad_model(
            "a text",
            "text.pth",
            r"text\.pth: cannot be read as weights \(not a pickle, or a pickle of more than tensors",
        ),
        bad_model(
            "a pickle with code in it",
            "code.pth",
            r"code\.pth: cannot be read .*a pickle of more than tensors, whose code was not run\).*save its state dict",
        ),
        bad_model(
            "one of an older kind",
            "code.bin",
            r"code\.bin: cannot be read .*a pickle of more than tensors, whose code was not run\).*save its state dict",
        ),
        bad_model(
            "a list", "list.pth", r"list\.pth: contains no state dict .*save model\.state_dict\(\) with torch\.save"
        ),
        bad_model(
            "another network's weights",
            "unknown.pth",
            r"unknown\.pth: neither AST .* nor AudioMAE .*give a file in one of the authors' layouts",
        ),
        bad_model(
            "the same as safetensors", "unknown.safetensors", r"unknown\.safetensors: neither AST .* nor AudioMAE"
        ),
        bad_model(
            "a sound",
            "a.wav",
            r"a\.wav: a sound by its name, not a model; read sounds with audioprune\.load_audio",
        ),
        bad_model("a BERT", "bert", "bert: its model_type is bert, which has no audio classifier; use AST, AudioMAE"),
        Case(
            "a WavLM",
            "tag a.wav --model wavlm --out new.jsonl",
            "WavLMModel cannot be pruned: .*use a HuBERT",
            lambda: ap.prune(ap.load("wavlm"), ap.TopK(0.5)),
            "WavLMModel cannot be pruned: .*use a HuBERT",
        ),
        bad_model(
            "a CTC head",
            "ctc",
            "ctc: Wav2Vec2ForCTC has an output for every frame, .*give a model with a sequence classification head",
        ),
        bad_model("an audio-language model", "listener", "listener: an audio-language model.*use `audioprune ask`"),
        Case(
            "weights that are no AudioMAE, to be converted",
            "convert unknown.pth new",
            r"unknown\.pth: neither AST .* nor AudioMAE",
        ),
        Case(
            "a folder that has something in it",
            "convert tiny no-sounds",
            "no-sounds: exists and is not empty; pass --overwrite",
        ),
        Case("a file for a folder", "convert tiny a.wav", r"a\.wav: is a file; DST is the folder to write"),
        Case("an unknown preset", "convert tiny new --preset urban", "--preset is 'urban'; there are esc50"),
        Case(
            "an AST's pooling for an AudioMAE",
            "convert tiny new --pooling cls",
            "tiny: its model_type is audiomae, but pooling='cls' is for an AST",
            lambda: ap.load("tiny", pooling="cls"),
        ),
        Case(
            "a longer window than the positions are for",
            "convert tiny new --max-length 4096",
            r"tiny: 1 tensors do not have the shape .*leave out max_length",
            lambda: ap.load("tiny", max_length=4096),
        ),
    ],
    "Results files": [
        Case(
            "rows of another setting",
            "tag a.wav --model tiny --keep-rate 0.7 --out results.jsonl",
            r"results\.jsonl: begun with keep_rate=0\.5 \(not 0\.7\); give the same settings to continue, or another",
        ),
        Case(
            "notes",
            f"tag a.wav {TAG} --out notes.jsonl",
            r"notes\.jsonl: line 1 is not a row of results; choose another --out, nothing was changed",
        ),
        Case(
            "a row, and then notes",
            f"tag a.wav {TAG} --out row-and-notes.jsonl",
            r"row-and-notes\.jsonl: line 2 is not a row of results; choose another --out, nothing was changed",
        ),
        Case("a last row torn by a kill", f"tag a.wav {TAG} --out torn.jsonl", "LABEL", code=0),
        Case("a folder", f"tag a.wav {TAG} --out folder.jsonl", r"folder\.jsonl: is a folder; name a file"),
        Case(
            "a name that tells of no format",
            f"tag a.wav {TAG} --out new",
            "--out is 'new'; give it a name that ends in",
        ),
        Case(
            "a path beneath a file",
            f"tag a.wav {TAG} --out a.wav/new.jsonl",
            r"a\.wav: is a file where a folder is needed; choose another path",
        ),
    ],
    "Calibration": [
        Case(
            "no clips",
            "calibrate --model tiny --clips no-sounds --speed-up 2",
            "no sound files in no-sounds; .*by their names",
            lambda: ap.calibrate(tiny(), [], speed_up=2),
            "there are 0 clips, and a calibration needs 16",
        ),
        Case(
            "too few",
            "calibrate --model tiny --clips unlabelled --speed-up 2",
            "there are 3 clips, and a calibration needs 16 at least",
        ),
        Case(
            "neither aim",
            "calibrate --model tiny --clips unlabelled",
            "give either --max-disagreement, such as 0.02, or --speed-up",
            lambda: ap.calibrate(tiny(), []),
            "give either max_disagreement, such as 0.02, or speed_up",
        ),
        Case(
            "both aims",
            "calibrate --model tiny --clips unlabelled --speed-up 2 --max-disagreement 0.1",
            "give either --max-disagreement, .*and not both",
        ),
        Case(
            "an aim that is none",
            "calibrate --model tiny --clips unlabelled --speed-up nan",
            "--speed-up is nan; it is how many times as fast, more than 1",
            lambda: ap.calibrate(tiny(), [], speed_up=float("nan")),
            "speed_up is nan; it is",
        ),
        Case("no --clips", "calibrate --model tiny --speed-up 2", "Missing option '--clips'"),
        Case(
            "a file that is there",
            "calibrate --model tiny --clips unlabelled --speed-up 2 --out old.json",
            r"old\.json: exists; choose another --out, or pass --force",
        ),
        Case(
            "a file that --method does not take",
            "calibrate --model tiny --clips unlabelled --speed-up 2 --out new.txt",
            "--out is 'new.txt'; .*end in .json",
        ),
    ],
    "Data sets": [
        Case(
            "sounds without labels",
            "compare --model tiny --data unlabelled --out old.json",
            "unlabelled: no known layout; looked for.*folders +a folder of sounds for each class",
            lambda: read("unlabelled"),
            lines=9,
        ),
        Case(
            "other labels than the model's",
            "compare --model tiny --data classes --out old.json",
            "classes: has the labels high, low, and the model knows LABEL_0.*name the classes as the model does",
        ),
        Case(
            "other labels, in a test",
            "eval --model tiny --data classes --out old.json",
            "tiny: has the labels LABEL_0.*evaluate on the data set that the model was trained for",
        ),
        Case(
            "a folder that is not there",
            "compare --data nowhere --out old.json",
            "nowhere: no such folder; give the data set's",
            lambda: read("nowhere"),
        ),
        Case(
            "a sound for a folder",
            "compare --data a.wav --out old.json",
            r"a\.wav: is not a folder; give the data set's",
            lambda: read("a.wav"),
        ),
        Case(
            "files that are missing",
            "eval --model esc10 --data incomplete --folds 1 --out old.json",
            r"2 files are missing; complete the download.*incomplete/0\.wav",
            lambda: read("incomplete"),
            lines=4,
        ),
        Case(
            "an unknown data set",
            "compare --data classes --data-name esc51",
            "no data set 'esc51'; there are esc10, esc50",
            lambda: read("classes", "esc51"),
        ),
        Case(
            "no fold where there are folds",
            "compare --data folds --out old.json",
            r"esc10 has the folds 1, 2; choose those that the model never heard \(--folds\)",
        ),
        Case(
            "a fold that is not there",
            "eval --model esc10 --data folds --folds 7 --out old.json",
            "esc10 is cross-validated and has the folds 1, 2; there is no fold '7'",
        ),
        Case(
            "an unknown part",
            "compare --data folds --split exam",
            "--split is 'exam'; it is test, validation, train or all",
        ),
        Case(
            "an unknown method",
            "compare --data folds --methods magic",
            "no method 'magic'; there are recommended, topk",
        ),
        Case("a keep rate above 1", "eval --model esc10 --data folds --folds 1 --keep-rates 0.5,2", RATE),
        Case(
            "a folder of no training",
            "compare --data folds --fine-tuned topk=folder",
            r"folder/pruning\.json: no such settings file",
        ),
        Case(
            "a sound that is not among the clips",
            "analyze --data folds --folds 1 --clips x.wav --out new",
            "--clips names 'x.wav', which is neither a file among the 10 clips .* nor a number from 0 to 9",
        ),
        Case(
            "an unknown question",
            "analyze --data folds --folds 1 --skip magic --out new",
            "--skip is 'magic'; it must be one of tradeoff",
        ),
        Case(
            "a file for a cache",
            "compare --data folds --folds 1 --cache a.wav",
            r"a\.wav: cannot contain the cache \((?P<theirs>.+)\); choose another folder",
        ),
    ],
    "Training": [
        Case(
            "an unknown recipe",
            "train --recipe esc10-audiomay --data classes --out new",
            "no recipe 'esc10-audiomay'; did you mean esc10-audiomae.*or give a .yaml file",
            lambda: read_recipe("esc10-audiomay"),
        ),
        Case(
            "a recipe that is not there",
            "train --recipe gone.yaml --data classes --out new",
            r"gone\.yaml: no such recipe file",
            lambda: read_recipe("gone.yaml"),
        ),
        Case(
            "broken YAML",
            "train --recipe broken.yaml --data classes --out new",
            r"broken\.yaml: not a YAML recipe \((?P<theirs>.+)\)",
            lambda: read_recipe("broken.yaml"),
            lines=9,
        ),
        Case(
            "a recipe that extends nothing",
            "train --recipe extends-nothing.yaml --data classes --out new",
            r"extends-nothing\.yaml: extends nothing: no recipe 'nothing'",
            lambda: read_recipe("extends-nothing.yaml"),
        ),
        Case(
            "an unknown setting",
            "train --recipe small.yaml --data classes --out new --set epoch=3",
            r"small\.yaml: epoch: .*did you mean epochs\?",
            lambda: read_recipe("small.yaml", ["epoch=3"]),
        ),
        Case(
            "an unknown setting of a part",
            "train --recipe small.yaml --data classes --out new --set optimizer.learning=3",
            r"small\.yaml: optimizer\.learning: .*audioprune recipes NAME",
        ),
        Case(
            "a setting of the wrong type",
            "train --recipe small.yaml --data classes --out new --set epochs=many",
            r"small\.yaml: epochs: .*valid integer",
        ),
        Case(
            "a setting without a value",
            "train --recipe small.yaml --data classes --out new --set epochs",
            "--set is 'epochs'; write NAME=VALUE",
        ),
        Case(
            "a start that is missing",
            "train --recipe esc10-audiomae-topk --data classes --out new",
            "starts from what esc10-audiomae trains: .*give its folder with --init",
        ),
        Case(
            "a fold that is not there",
            "train --recipe small.yaml --data folds --fold 9 --out new",
            "has the folds 1, 2; there is no fold '9'",
        ),
        Case(
            "a recipe of pre-training",
            "train --recipe esc10-pretrain --data classes --out new",
            "esc10-pretrain pre-trains; use: audioprune pretrain",
        ),
        Case(
            "a folder begun with other settings",
            "train --recipe small.yaml --data classes --out run --set epochs=9",
            r"run: begun with epochs=3 \(not 9\)|run: begun with .*epochs=3 \(not 9\).*another folder",
        ),
        Case(
            "a checkpoint whose weights are torn",
            "train --recipe small.yaml --data classes --out run",
            r"run/checkpoint-2: a file in it cannot be read \((?P<theirs>.+)\); remove this folder",
        ),
    ],
    "Audio-language models": [
        Case(
            "words that the shipped listener lacks",
            "ask a.wav 'what colour is the sky ?'",
            "note: listener has no word for colour, is, sky: its answer may mean nothing(?P<theirs>.+)",
            code=0,
            lines=9,
        ),
        Case("no question", "ask a.wav ''", "the question is empty; ask something"),
        Case("a sound that is too short", f"ask 50ms.wav {ASK}", r"50ms\.wav: the sound of 0\.05 s is too short"),
        Case("a text named .wav", f"ask text.wav {ASK}", rf"text\.wav: {UNDECODED}"),
        Case(
            "a classifier",
            f"ask a.wav {ASK} --model esc10",
            "esc10: audiomae is not an audio-language model .*examples are listener",
        ),
        Case("a path that is not there", f"ask a.wav {ASK} --model ./gone", "gone: no such file or folder"),
        Case("a keep rate of 0", f"ask a.wav {ASK} --keep-rate 0", RATE),
        Case("an unknown method", f"ask a.wav {ASK} --method magic", "no method 'magic'; there are recommended, topk"),
        Case(
            "a method that learns block by block",
            f"ask a.wav {ASK} --method dynamicvit",
            "DynamicViT learns, block by block, .*use a method that does not learn",
        ),
        Case("layers", "explain a.wav --model listener --layers 1", "layers is .*leave layers out"),
        Case(
            "positions that are none",
            f"ask a.wav {ASK} --positions sideways",
            'positions is \'sideways\'; it is "renumber" or "keep"',
        ),
        Case(
            "a dtype that is none",
            f"ask a.wav {ASK} --dtype int8",
            "the dtype is 'int8'; it must be one of auto, float32",
        ),
        Case(
            "a picture in a format that is not written",
            f"ask a.wav {ASK} --out a.bmp",
            r"a\.bmp: pictures are written as",
        ),
        Case(
            "a folder that is no benchmark",
            "eval-lm --model listener --data folder --out new",
            "folder: no known benchmark; looked for",
            lines=5,
        ),
        Case(
            "an unknown benchmark",
            "eval-lm --model listener --data folder --benchmark exam --out new",
            "no benchmark 'exam'; there are clotho",
        ),
    ],
    "Servers and exports": [
        Case(
            "a port in use",
            "app --port {port}",
            r"port 7860 of 127\.0\.0\.1 is in use .*choose another with --port",
            needs="gradio",
        ),
        Case(
            "an address of another machine",
            "app --host 203.0.113.7 --port 0",
            "--host is '203.0.113.7', which is not an address of this machine",
            needs="gradio",
        ),
        Case("a port that is none", "app --port 99999", "Invalid value for '--port'.*65535"),
        export("a folder for a file", "folder", "folder: is a folder; name the file to write"),
        export(
            "a file that is there",
            "old.onnx",
            r"old\.onnx: exists; name another file, or pass overwrite=True \(--overwrite\)",
        ),
        export("a path beneath a file", "a.wav/new.onnx", r"a\.wav: cannot be written to"),
        export("operators that are too old", "new.onnx --opset 3", "Invalid value for '--opset'.*18"),
        export(
            "operators that do not exist yet",
            "new.onnx --opset 99",
            r"opset is 99; the installed onnx supports 18 to (?P<theirs>\d+)",
        ),
        Case(
            "an audio-language model",
            "export listener new.onnx",
            "listener: an audio-language model.*classifiers alone can be exported",
            needs="onnxscript",
        ),
    ],
}
