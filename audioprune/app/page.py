"""Layout of the page and actions of its controls. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from .answer import Comparison
from .bars import bars
from .messages import measurement, message_box, reason, verdict
from .pictures import figure_html, picture, timeline_html
from .sound_input import sound_input
from .speech import SpeechStudio, speech_tab
from .studio import Choice, Studio

CLIPS = Path(__file__).parent.parent / "assets" / "clips"
CSS = Path(__file__).with_name("page.css")
SCORES = ["attention", "cls", "intensity", "variation", "random"]
OWN_SCORE = "the method's own"
SHOWN_LABELS = 4
LEAST = 0.1
TITLE = "Hear a sound with fewer tokens"
INTRO = (
    "An audio transformer cuts a spectrogram into patches, its tokens. Pruning lets it forget most of them as it runs. "
    "Here is what it then hears, what it kept, and what that saves."
)
HINT = "Record a sound, upload one, or choose an example: the answers of the unpruned and the pruned model appear here."


@dataclass(frozen=True)
class Parts:
    """The components of the page that change."""

    message: gr.HTML
    hint: gr.HTML
    results: gr.Column
    verdict: gr.HTML
    unpruned: gr.Label
    pruned: gr.Label
    bars: gr.HTML
    timeline: gr.HTML
    stage: gr.Slider
    picture: gr.HTML
    state: gr.State


@dataclass(frozen=True)
class PageState:
    """The latest comparison of a visitor, and its request: sound, model, method, keep rate and score."""

    request: tuple[str, str, str, float, str]
    comparison: Comparison


def theme() -> gr.themes.Base:
    """Theme with system fonts, so that nothing is downloaded."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    look = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=fonts)
    return look.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")


def page(
    studio: Studio,
    models: Sequence[str],
    choices: Sequence[Choice],
    *,
    any_model: bool,
    speech: SpeechStudio | None = None,
) -> gr.Blocks:
    """Build the page.

    Args:
        studio: computes the comparisons.
        models: models to choose from; the first is selected at the start.
        choices: methods to choose from; the first is selected at the start.
        any_model: whether visitors may type other models, also folders of this machine.
        speech: transcribes, on a tab of its own; None for no such tab.
    """
    with gr.Blocks(title="audioprune", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(f'<h1>{TITLE}</h1><p class="ap-intro">{INTRO}</p>', elem_classes="ap-head")
        if speech is None:
            _sounds(studio, models, choices, any_model)
        else:
            with gr.Tab("Sounds", elem_id="sounds-tab"):
                _sounds(studio, models, choices, any_model)
            with gr.Tab("Speech", elem_id="speech-tab"):
                speech_tab(speech)
    return blocks


def _sounds(studio: Studio, models: Sequence[str], choices: Sequence[Choice], any_model: bool) -> None:
    """What a classifier hears in a sound."""
    message = gr.HTML(elem_id="message", visible=False)
    with gr.Row(elem_classes="ap-main"):
        with gr.Column(scale=4, min_width=320):
            sound, settings, run = _controls(models, choices, any_model)
        with gr.Column(scale=8, min_width=420):
            parts = _results(message)
    _wire(studio, {choice.name: choice for choice in choices}, sound, settings, run, parts)


def _controls(
    models: Sequence[str], choices: Sequence[Choice], any_model: bool
) -> tuple[gr.Audio, list[Any], gr.Button]:
    sound = sound_input("Sound", "sound")
    clips = sorted(CLIPS.glob("*.ogg"))
    gr.Examples(
        [[str(clip)] for clip in clips],
        sound,
        cache_examples=False,
        label="Examples",
        example_labels=[clip.stem for clip in clips],
        elem_id="examples",
        api_visibility="private",
    )
    first = choices[0]
    method = gr.Dropdown(
        [(choice.title, choice.name) for choice in choices],
        value=first.name,
        label="Method",
        info="recommended leaves half of the work; a keep rate that you set is for every block",
        elem_id="method",
    )
    score = gr.Dropdown(
        [OWN_SCORE, *SCORES],
        value=OWN_SCORE,
        label="Score",
        info="what makes a token worth keeping",
        visible=first.scored,
        elem_id="score",
    )
    # The bounds are the same for all methods: if they changed, Gradio would refuse a value that was sent before.
    keep_rate = gr.Slider(
        LEAST,
        1.0,
        value=first.keep_rate,
        step=0.01,
        label="Keep rate",
        info="share of tokens that each pruned block keeps",
        elem_id="keep-rate",
    )
    # A number that no method accepts gets the page's own message, not Gradio's. (With a subclass, Gradio would write a
    # file next to this one.)
    keep_rate.preprocess = lambda payload: payload  # type: ignore[method-assign]
    model = gr.Dropdown(
        list(models),
        value=models[0],
        label="Model",
        info="or a hub id, a folder or a weight file, then Enter" if any_model else None,
        allow_custom_value=any_model,
        elem_id="model",
    )
    return sound, [model, method, keep_rate, score], gr.Button("Listen again", variant="primary", elem_id="run")


def _results(message: gr.HTML) -> Parts:
    hint = gr.HTML(f'<div class="ap-hint">{HINT}</div>', elem_id="hint")
    with gr.Column(visible=False, elem_id="results") as results:
        verdict = gr.HTML(elem_id="verdict")
        with gr.Row():
            label_options: dict[str, Any] = {"num_top_classes": SHOWN_LABELS, "min_width": 200}
            unpruned = gr.Label(label="Without pruning", elem_id="unpruned", **label_options)
            pruned = gr.Label(label="With pruning", elem_id="pruned", **label_options)
        timeline = gr.HTML(elem_id="timeline", visible=False)
        image = gr.HTML(elem_id="picture")
        stage = gr.Slider(
            0,
            1,
            value=0,
            step=1,
            label="Stage",
            info="0 is the whole input; then what each stage kept",
            elem_id="stage",
        )
        costs = gr.HTML(elem_id="bars")
    return Parts(message, hint, results, verdict, unpruned, pruned, costs, timeline, stage, image, gr.State(None))


def _wire(
    studio: Studio, choices: dict[str, Choice], sound: gr.Audio, settings: list[Any], run: gr.Button, parts: Parts
) -> None:
    model, method, keep_rate, score = settings

    # Gradio hands a `Progress` to the last parameter, which must have a place of its own.
    def update(path: Any, name: Any, kind: Any, rate: Any, by: Any, before: Any, bar: Any = gr.Progress()) -> Any:  # noqa: B008
        return _update(studio, parts, path, name, kind, rate, by, before, again=False, bar=bar)

    def update_again(path: Any, name: Any, kind: Any, rate: Any, by: Any, before: Any, bar: Any = gr.Progress()) -> Any:  # noqa: B008
        return _update(studio, parts, path, name, kind, rate, by, before, again=True, bar=bar)

    # Not the stage: Gradio raises an error for a stage of the previous comparison that the latest does not have.
    inputs = [sound, *settings, parts.state]
    outputs = list(vars(parts).values())
    # Of the requests that came while the model was busy, only the latest is computed.
    turn: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "model"}
    turn |= {"show_progress": "full", "show_progress_on": [parts.hint, parts.verdict], "api_visibility": "private"}
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    draw: dict[str, Any] = {"fn": _image, "inputs": [parts.state, parts.stage], "outputs": parts.picture, **quick}
    triggers = [sound.change, model.input, score.input, keep_rate.input]
    gr.on(triggers, update, inputs, outputs, **turn).then(**draw)
    run.click(update_again, inputs, outputs, **turn).then(**draw)
    adjustment = method.input(
        lambda name, rate: _adjust(choices[name], rate, [choice.keep_rate for choice in choices.values()]),
        [method, keep_rate],
        [keep_rate, score],
        **quick,
    )
    adjustment.then(update, inputs, outputs, **turn).then(**draw)
    parts.stage.input(trigger_mode="always_last", **draw)


def _adjust(choice: Choice, keep_rate: float, defaults: Sequence[float]) -> tuple[float, Any]:
    """Keep rate and score for a method. A rate that the visitor did not choose is replaced by the method's default."""
    chosen = keep_rate not in defaults and keep_rate >= choice.least
    return keep_rate if chosen else choice.keep_rate, gr.update(visible=choice.scored, value=OWN_SCORE)


def _update(
    studio: Studio,
    parts: Parts,
    path: str | None,
    model: str,
    method: str,
    keep_rate: float,
    score: str,
    before: PageState | None,
    *,
    again: bool,
    bar: Callable[..., Any] = lambda *_, **__: None,
) -> dict[Any, Any]:
    """Changes of the page for a request. If a sound or a setting cannot be used, only the message changes.

    Args:
        studio: computes the comparison.
        parts: components of the page.
        path: path of the sound, or None.
        model: name of the model.
        method: name of the method.
        keep_rate: the keep rate.
        score: the score, or `OWN_SCORE`.
        before: state of the page, or None.
        again: whether to repeat the latest request. Gradio reports some changes twice.
        bar: shows how much of a long sound was heard: `gr.Progress`.
    """
    if path is None:
        return {parts.message: gr.update(visible=False)}
    request = (path, model, method, keep_rate, score)
    if before is not None and before.request == request and not again:
        return {parts.message: _notes(before.comparison)}

    def heard(done: int, total: int) -> None:
        bar((done, total), desc="Hearing a long sound", unit="windows")

    try:
        chosen = None if score == OWN_SCORE else score
        comparison = studio.compare(Path(path), model, method, keep_rate, chosen, progress=heard)
    except Exception as error:
        return {parts.message: message_box(_failure(reason(error, Path(path), model), before), "ap-error")}
    return {
        parts.message: _notes(comparison),
        parts.hint: gr.update(visible=False),
        parts.results: gr.update(visible=True),
        parts.verdict: verdict(comparison, model),
        parts.unpruned: comparison.unpruned.labels,
        parts.pruned: comparison.pruned.labels,
        parts.bars: bars(comparison) + measurement(comparison),
        parts.timeline: gr.update(visible=comparison.timeline is not None, value=timeline_html(comparison)),
        parts.stage: _slider(comparison.stages, None if before is None else before.comparison.stages),
        parts.state: PageState(request, comparison),
    }


def _slider(stages: int, before: int | None) -> Any:
    """Update of the stage slider: no change if the number of stages is the same, otherwise the last stage."""
    if stages == before:
        return gr.skip()
    return gr.update(maximum=max(stages, 1), value=stages, interactive=stages > 0)


def _failure(text: str, before: PageState | None) -> list[str]:
    hint = [] if before is None else [f"The result below is still the answer to {escape(before.comparison.name)}."]
    return [f"<b>{escape(text)}</b>", *hint]


def _notes(comparison: Comparison) -> Any:
    return message_box([escape(note) for note in comparison.notes], "ap-note")


def _image(state: PageState | None, stage: float) -> Any:
    if state is None:
        return gr.skip()
    # The slider may still be at a stage of the previous comparison.
    png, caption = picture(state.comparison, min(int(stage), state.comparison.stages))
    return figure_html(png, caption)
