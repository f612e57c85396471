"""Scenes, and the small audio-language model that is asked about them; on sounds made here."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from audioprune.audio.files import SAMPLE_RATE
from audioprune.data.table import DataError
from listener import (
    ListenerTraining,
    Settings,
    answer_logits,
    answers,
    audio_tokens,
    blind,
    encode,
    evaluate,
    frame_targets,
    log_mel,
    make_batch,
    make_model,
    make_processor,
    prompt,
    silenced,
    thinned,
)
from listener.scenes import DIGITS, GAP, KINDS, SECONDS, SOUNDS, Recordings, make_scene, read_recordings

TINY = {"width": 32, "audio_layers": 1, "text_layers": 1, "audio_heads": 2, "text_heads": 2}
QUICK = Settings(steps=4, local=1, warmup=2, batch=2, ramp=1, seed=3, thinned=3)


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders laid out like the real ones: five classes in five folds, two speakers with takes 0 (test), 5 and 9."""
    folder, rng = tmp_path_factory.mktemp("listener"), np.random.default_rng(0)
    for name in ("esc10", "fsdd"):
        (folder / name / "audio").mkdir(parents=True)
    rows = []
    for tone, label in enumerate(list(SOUNDS)[:5]):
        for fold in "12345":
            rows.append([f"audio/{fold}-{label}.wav", label, fold])
            time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
            wave = 0.1 * np.sin(2 * np.pi * 200 * (tone + 1) * time) + 0.01 * rng.normal(size=SAMPLE_RATE)
            soundfile.write(folder / "esc10" / rows[-1][0], wave, SAMPLE_RATE)
    write_table(folder / "esc10" / "manifest.csv", ["path", "label", "fold"], rows)
    rows = []
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for take in (0, 5, 9):
                rows.append([f"audio/{digit}_{speaker}_{take}.wav", str(digit), speaker, "train" if take else "test"])
                wave = 0.1 * rng.normal(size=rng.integers(2000, 5000))
                soundfile.write(folder / "fsdd" / rows[-1][0], wave, 8000)
    write_table(folder / "fsdd" / "manifest.csv", ["path", "digit", "speaker", "split"], rows)
    return folder


@pytest.fixture(scope="session")
def recordings(data: Path) -> Recordings:
    return read_recordings(data, "train")


@pytest.fixture(scope="session")
def processor():
    return make_processor(mels=16)


@pytest.fixture
def listener(processor):
    return make_model(processor, **TINY).eval()


class TestScenes:
    def test_same_seed_and_index_same_scene(self, recordings: Recordings) -> None:
        for vary in (False, True):
            one, again = (make_scene(recordings, 1, 7, vary=vary) for _ in range(2))
            assert np.array_equal(one.waveform, again.waveform)
            assert (one.digits, one.sounds, one.questions) == (again.digits, again.sounds, again.questions)
        other = make_scene(recordings, 1, 8)
        assert len(one.waveform) != len(other.waveform)

    @pytest.mark.parametrize(("crowded", "fewest", "most", "gap"), [(False, 1, 4, GAP), (True, 5, 16, 0.03)])
    def test_the_truth_fits_the_waveform(
        self, recordings: Recordings, crowded: bool, fewest: int, most: int, gap: float
    ) -> None:
        for i in range(60):
            scene = make_scene(recordings, 2, i, vary=i % 2 == 1, crowded=crowded)
            assert scene.waveform.dtype == np.float32
            assert np.isfinite(scene.waveform).all()
            assert np.abs(scene.waveform).max() < 1
            assert SECONDS[0] <= scene.seconds + 1e-3 <= SECONDS[1] + 2e-3
            assert fewest <= len(scene.digits) <= most
            edges = [0.0, *(t for d in scene.digits for t in (d.start, d.end)), scene.seconds]
            assert all(after - before > gap - 1e-3 for before, after in zip(edges[::2], edges[1::2]))
            first, second = scene.sounds
            assert first.word != second.word
            assert (first.start, first.end, second.end) == (0.0, second.start, scene.seconds)
            assert set(scene.mentioned) == {first.word, second.word}

    def test_questions_have_the_truth_as_answers(self, recordings: Recordings) -> None:
        scene = make_scene(recordings, 2, 3)
        order, first, count = scene.questions
        assert [q.kind for q in scene.questions] == list(KINDS)
        assert order.answer.split() == [digit.word for digit in scene.digits]
        assert first.answer == scene.sounds[0].word
        assert first.answer in first.text.split()
        assert DIGITS.index(count.answer) == len(scene.digits)

    def test_counts_and_mentions_are_even(self, recordings: Recordings) -> None:
        scenes = [make_scene(recordings, 4, i) for i in range(300)]
        counts = np.bincount([len(scene.digits) for scene in scenes], minlength=5)[1:]
        assert (np.abs(counts - 75) < 30).all()
        assert abs(np.mean([scene.mentioned[0] == scene.sounds[0].word for scene in scenes]) - 0.5) < 0.1

    def test_held_out_recordings_are_never_trained_on(self, data: Path, recordings: Recordings) -> None:
        parts = {part: read_recordings(data, part).paths for part in ("learn", "validation", "test")}
        assert recordings.paths == parts["learn"] | parts["validation"]
        assert not recordings.paths & parts["test"]
        assert not parts["learn"] & parts["validation"]
        assert {path.name for path in parts["test"]} == {
            *(f"5-{label}.wav" for label in list(SOUNDS)[:5]),
            *(f"{digit}_{speaker}_0.wav" for digit in range(10) for speaker in ("ann", "bob")),
        }
        used = {path for i in range(30) for path in make_scene(recordings, 0, i, vary=True).sources}
        assert used <= recordings.paths

    def test_says_what_is_missing(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no part 'tset'"):
            read_recordings(data, "tset")
        with pytest.raises(DataError, match="fsdd"):
            read_recordings(tmp_path, "train")


class TestModel:
    def test_features_are_the_extractors(self, recordings: Recordings, processor) -> None:
        waves = [make_scene(recordings, 0, i).waveform for i in range(2)]
        features = processor.feature_extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        torch.testing.assert_close(log_mel(processor.feature_extractor, waves), features["input_features"])

    def test_round_trip(self, recordings: Recordings, processor, listener, tmp_path: Path) -> None:
        listener.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = Qwen2AudioForConditionalGeneration.from_pretrained(tmp_path).eval()
        other = AutoProcessor.from_pretrained(tmp_path)
        scene = make_scene(recordings, 0, 0)
        waves, questions = [scene.waveform] * 3, [question.text for question in scene.questions]
        assert answers(loaded, other, waves, questions, 3) == answers(listener, processor, waves, questions, 3)
        before = listener.model.audio_tower.embed_positions.weight
        assert torch.equal(before, loaded.model.audio_tower.embed_positions.weight)

    def test_a_batch_of_two_lengths_equals_each_alone(self, recordings: Recordings, processor, listener) -> None:
        scenes = [make_scene(recordings, 0, i) for i in range(2)]
        waves = [scene.waveform for scene in scenes]
        texts = [prompt(scenes[0].questions[1].text), prompt(scenes[1].questions[2].text)]

        def logits(which: list[int]) -> torch.Tensor:
            inputs = processor(
                text=[texts[i] for i in which],
                audio=[waves[i] for i in which],
                sampling_rate=SAMPLE_RATE,
                return_tensors="pt",
                padding=True,
            )
            with torch.no_grad():
                return listener.generate(**inputs, output_logits=True, return_dict_in_generate=True).logits[0]

        assert audio_tokens(len(waves[0])) != audio_tokens(len(waves[1]))
        torch.testing.assert_close(logits([0, 1]), torch.cat((logits([0]), logits([1]))), atol=1e-4, rtol=1e-4)

    def test_packed_questions_equal_one_prompt_each(self, recordings: Recordings, processor, listener) -> None:
        scenes = [make_scene(recordings, 0, i) for i in range(2)]
        with torch.no_grad():
            batch = make_batch(processor, scenes)
            packed = answer_logits(listener, batch, encode(listener, batch))
            alone = []
            for scene in scenes:
                for question in scene.questions:
                    text = f"{prompt(question.text)} {question.answer}"
                    inputs = processor(text=text, audio=scene.waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
                    alone.append(listener(**inputs).logits[0, -len(question.answer.split()) - 1 :])
        torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)

    def test_frame_targets_follow_the_truth(self, recordings: Recordings) -> None:
        scene = make_scene(recordings, 0, 5)
        targets = frame_targets(scene)
        real = audio_tokens(len(scene.waveform))[1]
        assert (targets[real:] == -100).all()
        assert (targets[:real] >= 0).all()
        for i, event in enumerate(scene.digits, 1):
            middle = targets[int((event.start + event.end) / 2 / 0.04)]
            assert (int(middle[0]), int(middle[2])) == (DIGITS.index(event.word), i)
        assert int(targets[0, 3]) == 0
        assert int(targets[real - 1, 3]) == 1

    def test_evaluation_is_word_for_word(self, recordings: Recordings, processor, listener) -> None:
        scenes = [make_scene(recordings, 0, i) for i in range(3)]
        right = evaluate(listener, processor, scenes, batch_size=2)
        assert {kind: len(found) for kind, found in right.items()} == dict.fromkeys(KINDS, 3)
        assert not any(silenced(scenes)[0].waveform)
        assert blind([scenes[0]] * 2) == dict.fromkeys(KINDS, 1.0)


class TestThinned:
    def test_what_is_left_is_answered_as_if_the_rest_had_never_been(self, recordings: Recordings, processor) -> None:
        """Against the stock model, given the shorter prompt as embeddings."""
        model = make_model(processor, **TINY).eval()
        scene = make_scene(recordings, 0, 0)
        batch = make_batch(processor, [scene])
        for seed in range(8):
            thin = thinned(batch, model.config.audio_token_id, np.random.default_rng(seed))
            if thin.positions[0].max() < batch.positions[0].max():
                break
        assert thin.read is not None
        with torch.no_grad():
            tokens = encode(model, batch)
            logits = answer_logits(model, thin, tokens)
            embeds = model.get_input_embeddings()(batch.ids)
            heard = batch.ids == model.config.audio_token_id
            embeds[heard] = model.model.multi_modal_projector(tokens)[:, : int(heard.sum())].flatten(0, 1)
            first = batch.question[0] <= 1
            left = (thin.read[0] & first).nonzero()[:, 0]
            alone = model(inputs_embeds=embeds[:, left], attention_mask=torch.ones(1, len(left))).logits[0]
        wanted = alone[batch.labels[0, left] != -100]
        torch.testing.assert_close(logits[: len(wanted)], wanted, atol=1e-5, rtol=1e-4)
        assert torch.equal(thin.positions[0, left], torch.arange(len(left)))


class TestTraining:
    def start(self, recordings: Recordings, processor, settings: Settings = QUICK) -> ListenerTraining:
        return ListenerTraining(make_model(processor, **TINY, dropout=0.1), processor, recordings, settings)

    def test_first_the_encoder_in_windows_then_whole_then_all(self, recordings: Recordings, processor) -> None:
        training = self.start(recordings, processor)
        speaking = training.model.lm_head.weight.detach().clone()
        positions = training.model.model.audio_tower.embed_positions.weight.clone()
        assert set(training.step()) == {"digit", "sound"}
        assert set(training.step()) == {"digit", "sound", "ordinal", "place"}
        assert torch.equal(training.model.lm_head.weight, speaking)
        losses = training.step()
        assert set(losses) == {"digit", "sound", "ordinal", "place", "answer"}
        assert np.isfinite(list(losses.values())).all()
        assert not torch.equal(training.model.lm_head.weight, speaking)
        assert torch.equal(training.result().model.audio_tower.embed_positions.weight, positions)

    def test_at_last_the_language_model_alone(self, recordings: Recordings, processor) -> None:
        training = self.start(recordings, processor)
        for _ in range(QUICK.steps):
            training.step()
        hearing = [p.clone() for p in training.result().model.audio_tower.parameters()]
        speaking = training.result().lm_head.weight.clone()
        assert set(training.step()) == {"answer"}
        for one, other in zip(hearing, training.result().model.audio_tower.parameters()):
            assert torch.equal(one, other)
        assert not torch.equal(training.result().lm_head.weight, speaking)

    @pytest.mark.parametrize("stopped", [3, 4, 6])
    def test_resumed_equals_uninterrupted(
        self, recordings: Recordings, processor, tmp_path: Path, stopped: int
    ) -> None:
        whole, part = self.start(recordings, processor), self.start(recordings, processor)
        for _ in range(QUICK.total):
            whole.step()
        for _ in range(stopped):
            part.step()
        torch.save(part.state(), tmp_path / "state.pt")
        resumed = self.start(recordings, processor)
        resumed.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
        while resumed.done < QUICK.total:
            resumed.step()
        for one, other in zip(whole.result().parameters(), resumed.result().parameters()):
            assert torch.equal(one, other)
        with pytest.raises(ValueError, match=r"begun with steps=4 \(not 9\)"):
            self.start(recordings, processor, replace(QUICK, steps=9)).load_state(whole.state())
