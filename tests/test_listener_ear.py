"""The listener with a real ear, on sounds made here and a tiny Whisper of random weights."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE
from audioprune.data.table import DataError
from listener import (
    EarSettings,
    EarTraining,
    Examination,
    answer_logits,
    answers,
    audio_tokens,
    blind,
    evaluate,
    hear,
    hears_timelines,
    join_ear,
    make_ear_model,
    make_ear_processor,
    make_processor,
    prompt,
    read_heard,
    right_answers,
    save_without_ear,
    silenced,
    summary,
    write_heard,
)
from listener.ear_training import make_heard_batch
from listener.heard import token_targets
from listener.recompose import Parts, joined, parts_of
from listener.scenes import DIGITS, SOUNDS
from listener.timelines import BLOCKS, COMMANDS, KINDS, SECONDS, SPOKEN, TALK, Voices, make_timeline, read_voices

SMALL = {"width": 32, "heads": 2, "layers": 1}
QUICK = EarSettings(steps=4, batch=3, ramp=1)


def write_sounds(folder: Path, columns: list[str], rows: list[list[str]], seconds: float) -> None:
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for row in rows:
        soundfile.write(folder / row[0], 0.1 * rng.normal(size=round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders laid out like the real ones: nine speakers of digits, commands and speech; four sounds in five folds."""
    folder = tmp_path_factory.mktemp("ear")
    speakers = [f"s{i}" for i in range(9)]
    digits = [[f"audio/{digit}_{name}.wav", str(digit), name] for digit in range(10) for name in speakers]
    write_sounds(folder / "fsdd", ["path", "digit", "speaker"], digits, 0.3)
    commands = [[f"audio/{word}_{name}.wav", word, name] for word in (*COMMANDS, "tree") for name in speakers]
    commands.append(["audio/noise.wav", "_silence_", ""])
    write_sounds(folder / "commands", ["path", "word", "speaker"], commands, 0.4)
    sounds = [[f"audio/{fold}-{label}.wav", label, fold] for label in list(SOUNDS)[:4] for fold in "12345"]
    write_sounds(folder / "esc10", ["path", "label", "fold"], sounds, 2.0)
    write_sounds(folder / "speech", ["path", "text", "speaker"], [[f"audio/{n}.wav", "a b", n] for n in speakers], 3.0)
    return folder


@pytest.fixture(scope="module")
def voices(data: Path) -> Voices:
    return read_voices(data, "test")


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper of random weights, as a folder."""
    folder = tmp_path_factory.mktemp("whisper")
    config = WhisperConfig(
        vocab_size=60, num_mel_bins=16, d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=1, bos_token_id=2,
        eos_token_id=3, decoder_start_token_id=2, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(ear: Path):
    return make_ear_processor(ear)


@pytest.fixture
def listener(ear: Path, processor):
    return make_ear_model(ear, processor, **SMALL).eval()


@pytest.fixture(scope="module")
def heard(ear: Path, processor, voices: Voices, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("heard")
    model = make_ear_model(ear, processor, **SMALL).eval()
    list(write_heard(model, processor.feature_extractor, lambda: voices, folder, seed=0, count=7, vary=True))
    return read_heard(folder)


class TestTimelines:
    def test_the_truth_fits_the_waveform(self, voices: Voices) -> None:
        for i in range(40):
            timeline = make_timeline(voices, 2, i, vary=i % 2 == 1)
            truth = timeline.truth
            assert timeline.waveform.dtype == np.float32
            assert np.isfinite(timeline.waveform).all()
            assert np.abs(timeline.waveform).max() < 1
            assert timeline.seconds <= SECONDS
            assert 1 <= len(truth.words) <= 4
            events = sorted((*truth.blocks, *truth.words), key=lambda event: event.start)
            assert all(before.end < after.start for before, after in pairwise(events))
            assert events[-1].end < timeline.seconds
            (talk,) = (block for block in truth.blocks if block.word == TALK)
            assert talk.start < truth.interruption.start < truth.interruption.end < talk.end
            assert len({block.word for block in truth.blocks} | {truth.interruption.word}) == 4

    def test_same_seed_and_index_same_timeline(self, voices: Voices) -> None:
        one, again = (make_timeline(voices, 1, 7, vary=True) for _ in range(2))
        assert np.array_equal(one.waveform, again.waveform)
        assert (one.truth, one.questions) == (again.truth, again.questions)

    def test_questions_have_the_truth_as_answers(self, voices: Voices) -> None:
        for i in range(20):
            timeline = make_timeline(voices, 3, i)
            order, count, first, between, sound = timeline.questions
            assert [question.kind for question in timeline.questions] == list(KINDS)
            starts = {block.word: block.start for block in timeline.truth.blocks}
            starts["words"] = timeline.truth.words[0].start
            assert order.answer.split() == [word.word for word in timeline.truth.words]
            assert DIGITS.index(count.answer) == len(timeline.truth.words)
            assert first.answer == min(first.choices, key=starts.__getitem__)
            named = [word for word in between.text.split() if word in BLOCKS]
            ends = sorted(starts[name] for name in named)
            (word,) = (word for word in timeline.truth.words if ends[0] < word.start < ends[1])
            assert between.answer == word.word
            assert sound.answer == timeline.truth.interruption.word

    def test_counts_and_answers_are_even(self, voices: Voices) -> None:
        timelines = [make_timeline(voices, 4, i) for i in range(200)]
        counts = np.bincount([len(timeline.truth.words) for timeline in timelines], minlength=5)[1:]
        assert (np.abs(counts - 50) < 25).all()
        shares = blind(timelines)
        assert shares["first"] < 0.62
        assert shares["between"] < 0.15

    def test_held_out_speakers_and_sounds_are_never_trained_on(self, data: Path) -> None:
        parts = {part: read_voices(data, part) for part in ("train", "learn", "validation", "test")}
        paths = {part: voices.paths for part, voices in parts.items()}
        assert paths["train"] == paths["learn"] | paths["validation"]
        assert not paths["train"] & paths["test"]
        assert not paths["learn"] & paths["validation"]

        def speakers(part: str) -> set[tuple[str, str]]:
            voices = parts[part]
            words = {("digit" if word in DIGITS else "command", name) for word in SPOKEN for name in voices.words[word]}
            return words | {(TALK, name) for name in voices.talks}

        assert not speakers("learn") & speakers("validation")
        assert not speakers("train") & speakers("test")
        assert {path.name[0] for path in paths["test"] if path.parts[-3] == "esc10"} == {"5"}

    def test_says_what_is_missing(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no part 'tset'"):
            read_voices(data, "tset")
        with pytest.raises(DataError, match="fsdd"):
            read_voices(tmp_path, "test")


class TestEar:
    def test_hears_what_the_models_own_tower_hears(self, listener, processor, voices: Voices) -> None:
        waves = [make_timeline(voices, 0, i).waveform for i in range(2)]
        texts = [prompt("how many words ?")] * 2
        inputs = processor(text=texts, audio=waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True)
        outputs = []
        tower = listener.model.audio_tower
        tower.register_forward_hook(lambda module, args, output: outputs.append(output.last_hidden_state))
        with torch.no_grad():
            listener(**inputs)
        for tokens, whole, wave in zip(hear(listener, processor.feature_extractor, waves), outputs[0], waves):
            assert len(tokens) == audio_tokens(len(wave))[1]
            torch.testing.assert_close(tokens, whole[: len(tokens)], atol=1e-4, rtol=1e-4)

    def test_the_encoder_is_whispers_and_frozen(self, listener, ear: Path) -> None:
        whisper = WhisperForConditionalGeneration.from_pretrained(ear).model.encoder.state_dict()
        for name, parameter in listener.model.audio_tower.named_parameters():
            assert torch.equal(parameter, whisper[name])
            assert not parameter.requires_grad

    def test_is_stored_without_its_ear(self, listener, ear: Path, processor, tmp_path: Path) -> None:
        save_without_ear(listener, tmp_path)
        assert not [name for name in load_file(tmp_path / "model.safetensors") if "audio_tower" in name]
        joined = join_ear(tmp_path, ear)
        for (name, one), other in zip(joined.named_parameters(), listener.parameters(), strict=True):
            assert torch.equal(one, other if "audio_tower" in name else other.half().float()), name

    def test_its_processor_knows_the_words(self, processor, voices: Voices) -> None:
        assert hears_timelines(processor)
        assert not hears_timelines(make_processor(16))
        for i in range(20):
            for question in make_timeline(voices, 0, i).questions:
                assert processor.tokenizer.unk_token_id not in processor.tokenizer(question.text).input_ids
                assert processor.tokenizer.unk_token_id not in processor.tokenizer(question.answer).input_ids


class TestHeard:
    def test_is_what_the_ear_heard_of_the_same_timelines(self, listener, processor, voices: Voices, heard) -> None:
        for i in (0, 6):
            timeline = make_timeline(voices, 0, i, vary=True)
            assert heard[i].truth == timeline.truth
            (tokens,) = hear(listener, processor.feature_extractor, [timeline.waveform])
            assert torch.equal(heard[i].tokens, tokens.half())

    def test_what_is_written_stays(self, listener, processor, voices: Voices, tmp_path: Path) -> None:
        def write(count: int) -> list[int]:
            args = (listener, processor.feature_extractor, lambda: voices, tmp_path)
            return list(write_heard(*args, seed=0, count=count, vary=False))

        assert write(2) == [2]
        (path,) = tmp_path.glob("*.safetensors")
        before = path.stat().st_mtime_ns
        assert write(2) == [2]
        assert path.stat().st_mtime_ns == before
        with pytest.raises(DataError, match="no timelines"):
            read_heard(tmp_path / "nothing")

    def test_token_targets_follow_the_truth(self, heard) -> None:
        for one in heard:
            targets = token_targets(one.truth, len(one.tokens))
            for i, word in enumerate(one.truth.words, 1):
                middle = targets[int((word.start + word.end) / 2 / 0.04)]
                assert (int(middle[0]), int(middle[1]), int(middle[2])) == (SPOKEN.index(word.word), len(BLOCKS), i)
            for i, block in enumerate(one.truth.blocks, 1):
                assert int(targets[int((block.start + 0.1) / 0.04), 3]) == i
            for block in (*one.truth.blocks[:1], one.truth.interruption):
                middle = targets[int((block.start + 0.1) / 0.04)]
                assert (int(middle[0]), int(middle[1])) == (len(SPOKEN), BLOCKS.index(block.word))

    @pytest.mark.parametrize("seed", range(4))
    def test_thinned_is_answered_as_if_the_rest_had_never_been(self, listener, processor, heard, seed: int) -> None:
        """Against the stock model, given the tokens that are left as embeddings."""
        batch = make_heard_batch(processor, heard[:2], np.random.default_rng(seed), 0.3)
        with torch.no_grad():
            said = answer_logits(listener, batch, batch.features)
            wanted = []
            for row in range(2):
                embeds = listener.get_input_embeddings()(batch.ids[row])
                audio = batch.ids[row] == listener.config.audio_token_id
                embeds[audio] = listener.model.multi_modal_projector(batch.features[row, : int(audio.sum())])
                for number in range(1, len(KINDS) + 1):
                    read = (batch.question[row] == 0) | (batch.question[row] == number)
                    out = listener(
                        inputs_embeds=embeds[None, read], attention_mask=torch.ones(1, int(read.sum())),
                        position_ids=batch.positions[row][None, read],
                    )  # fmt: skip
                    wanted.append(out.logits[0, batch.labels[row, read] != -100])
        torch.testing.assert_close(said, torch.cat(wanted), atol=1e-4, rtol=1e-3)


class TestRecompose:
    def test_a_timeline_is_all_of_its_parts(self, heard) -> None:
        for one in heard:
            again = joined(parts_of(one))
            assert torch.equal(again.tokens, one.tokens)
            for event, other in zip(
                (*again.truth.blocks, *again.truth.words, again.truth.interruption),
                (*one.truth.blocks, *one.truth.words, one.truth.interruption),
                strict=True,
            ):
                assert event.word == other.word
                assert (event.start, event.end) == pytest.approx((other.start, other.end))

    def test_the_truth_follows_the_parts(self, heard) -> None:
        parts, rng = Parts(heard), np.random.default_rng(0)
        known = {word: part.tokens for word, found in parts.words.items() for part in found[:1]}
        for _ in range(20):
            one = parts.recompose(rng)
            truth = one.truth
            assert 1 <= len(truth.words) <= 4
            assert [question.kind for question in truth.questions(rng)] == list(KINDS)
            assert len({block.word for block in truth.blocks} | {truth.interruption.word}) == 4
            events = sorted((*truth.blocks, *truth.words), key=lambda event: event.start)
            assert all(before.end <= after.start for before, after in pairwise(events))
            assert events[-1].end / 0.04 <= len(one.tokens) + 1
            for word in truth.words:
                if len(parts.words[word.word]) == 1:
                    windows = one.tokens.unfold(0, len(known[word.word]), 1).transpose(1, 2)
                    found = (windows == known[word.word]).all(dim=(1, 2)).nonzero()[:, 0]  # a word may come twice
                    begun, ended = found * 0.04 <= word.start, word.end <= (found + windows.shape[1] + 1) * 0.04
                    assert (begun & ended).any()

    def test_a_shift_changes_what_is_heard_and_not_the_truth(self, heard) -> None:
        parts = Parts(heard)
        plain, shifted = (parts.recompose(np.random.default_rng(3), shift) for shift in (0.0, 0.5))
        assert plain.truth == shifted.truth
        changed = (plain.tokens != shifted.tokens).any(dim=1)
        events = [event for event in (*plain.truth.blocks, *plain.truth.words) if event.word != TALK]
        times = torch.arange(len(changed)) * 0.04
        inside = torch.zeros_like(changed)
        for event in events:
            inside |= (times > event.start - 0.08) & (times < event.end + 0.04)
        assert changed.any()
        assert not (changed & ~inside).any()


class TestTraining:
    def start(self, ear: Path, processor, heard, settings: EarSettings = QUICK) -> EarTraining:
        return EarTraining(make_ear_model(ear, processor, **SMALL), processor, heard, settings)

    def test_learns_all_but_the_encoder(self, ear: Path, processor, heard) -> None:
        training = self.start(ear, processor, heard)
        before = {name: parameter.clone() for name, parameter in training.model.named_parameters()}
        losses = training.step()
        assert set(losses) == {"answer", "token"}
        assert np.isfinite(list(losses.values())).all()
        for name, parameter in training.model.named_parameters():
            assert torch.equal(parameter, before[name]) == ("audio_tower" in name), name

    def test_resumed_equals_uninterrupted(self, ear: Path, processor, heard, tmp_path: Path) -> None:
        whole, part = (self.start(ear, processor, heard) for _ in range(2))
        for _ in range(QUICK.total):
            whole.step()
        for _ in range(2):
            part.step()
        torch.save(part.state(), tmp_path / "state.pt")
        resumed = self.start(ear, processor, heard)
        resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
        while resumed.done < QUICK.total:
            resumed.step()
        for one, other in zip(whole.result().parameters(), resumed.result().parameters()):
            assert torch.equal(one, other)
        with pytest.raises(ValueError, match=r"begun with steps=4 \(not 9\)"):
            self.start(ear, processor, heard, EarSettings(steps=9, batch=3, ramp=1)).load_state(whole.state())

    def test_begins_with_the_weights_of_another_training(self, ear: Path, processor, heard) -> None:
        first = self.start(ear, processor, heard)
        first.step()
        second = self.start(ear, processor, heard, EarSettings(steps=9, batch=3, ramp=1, seed=1))
        second.begin_with(first.state())
        assert second.done == 0
        for one, other in zip(first.result().parameters(), second.result().parameters()):
            assert torch.equal(one, other)

    def test_each_timeline_once_in_an_epoch(self, ear: Path, processor, heard) -> None:
        training = self.start(ear, processor, heard)
        drawn = [i for step in range(7) for i in training._indices(step)]
        assert all(sorted(drawn[at : at + 7]) == list(range(7)) for at in (0, 7, 14))


class TestExamination:
    """Against `evaluate` and `answers`, which ask each question by the model's own `generate`."""

    @pytest.fixture(scope="class")
    @staticmethod
    def timelines(voices: Voices):
        return [make_timeline(voices, 9, i) for i in range(5)]

    @pytest.fixture(scope="class")
    @staticmethod
    def trained(ear: Path, processor, heard):
        """A listener whose answers differ from scene to scene."""
        settings = EarSettings(steps=30, batch=4, ramp=2, peak_lr=5e-3)
        training = EarTraining(make_ear_model(ear, processor, **SMALL), processor, heard, settings)
        while training.done < 30:
            training.step()
        return training.result()

    def test_unpruned(self, trained, processor, timelines) -> None:
        found = Examination(trained, processor, [timelines[:3], timelines[3:]], batch=2).accuracy()
        for number, part in enumerate((timelines[:3], timelines[3:])):
            for kind, right in evaluate(trained, processor, part, batch_size=2).items():
                assert found[kind][number] == np.mean(right)

    @pytest.mark.parametrize(
        ("method", "positions"),
        [
            (ap.SegmentwiseTopK(0.25), "renumber"),
            (ap.TopK(0.5, dropped="merge"), "keep"),
            (ap.VisionZip(0.3), "renumber"),
        ],
    )
    def test_pruned(self, trained, processor, timelines, method, positions: str) -> None:
        """The texts themselves: two models of chance are often equally wrong."""
        examination, said = Examination(trained, processor, [timelines], batch=3), []
        decode = processor.batch_decode

        def listen(ids, **kwargs):
            said.extend(texts := decode(ids, **kwargs))
            return texts

        examination.processor = type("Listening", (), {"batch_decode": staticmethod(listen)})()
        examination.accuracy(method, positions)
        wanted = []
        with ap.prune(trained, method, positions=positions):
            for at in (0, 3):
                part = timelines[at : at + 3]
                for i in range(len(KINDS)):
                    texts = [prompt(scene.questions[i].text) for scene in part]
                    waves = [scene.waveform for scene in part]
                    inputs = processor(
                        text=texts, audio=waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True
                    )
                    written = trained.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
                    wanted += decode(written, skip_special_tokens=True)
        assert [text.strip() for text in said] == [text.strip() for text in wanted]

    def test_summary_compares_with_the_deaf(self, trained, processor, timelines) -> None:
        report = summary(trained, processor, [timelines[:2], timelines[2:]])
        assert list(report) == list(KINDS)
        for kind, right in evaluate(trained, processor, silenced(timelines)).items():
            assert report[kind]["given silence"] == round(100 * np.mean(right), 2)
            assert report[kind]["text only"] >= report[kind]["given silence"]

    def test_right_answers_are_those_of_greedy_decoding(self, trained, processor, heard, voices: Voices) -> None:
        timelines = [make_timeline(voices, 0, i, vary=True) for i in range(7)]
        rng = np.random.default_rng(0)
        asked = [one.truth.questions(rng) for one in heard]
        shares = right_answers(trained, processor, heard)
        for i, kind in enumerate(KINDS):
            waves, texts = [one.waveform for one in timelines], [questions[i].text for questions in asked]
            said = answers(trained, processor, waves, texts, 7)
            right = [text == questions[i].answer for text, questions in zip(said, asked, strict=True)]
            assert shares[kind] == pytest.approx(np.mean(right), abs=0.15)
