"""The page's layout and what its controls do. Nothing is computed here."""

from __future__ import annotations

import base64
import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..models.loading import resolve
from .answer import Answer
from .bars import bars
from .pictures import picture
from .studio import Choice, Studio

CLIPS = Path(__file__).parent.parent / "assets" / "clips"
CSS = Path(__file__).with_name("page.css")
SCORES = ["attention", "cls", "intensity", "variation", "random"]
OWN_SCORE = "the method's own"
SHOWN_LABELS = 4
LEAST = 0.1
YEAR = 365 * 24 * 3600
EXPECTED = (ValueError, TypeError, OSError, RuntimeError)
"""What the library raises where the listener can mend it."""
TITLE = "Hear a sound with fewer tokens"
INTRO = (
    "An audio transformer cuts a spectrogram into patches, its tokens. Pruning lets it forget most of them as it runs. "
    "Here is what it then hears, what it kept, and what that saves."
)
HINT = "Record a sound, upload one, or choose an example: the answers of the unpruned and the pruned model appear here."


@dataclass(frozen=True)
class Parts:
    """The components that change."""

    message: gr.HTML
    hint: gr.HTML
    results: gr.Column
    verdict: gr.HTML
    unpruned: gr.Label
    pruned: gr.Label
    bars: gr.HTML
    stage: gr.Slider
    picture: gr.HTML
    heard: gr.State


@dataclass(frozen=True)
class Heard:
    """The latest answer of a visitor, and what was asked: sound, model, method, keep rate and score."""

    asked: tuple[str, str, str, float, str]
    answer: Answer


def theme() -> gr.themes.Base:
    """Fonts of the system: nothing is fetched."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    look = gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=fonts)
    return look.set(body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600")


def page(studio: Studio, models: Sequence[str], choices: Sequence[Choice], *, any_model: bool) -> gr.Blocks:
    """The page over a studio.

    models: those to choose from, the first to begin with; with `any_model` others may be typed, folders of this
    machine among them. choices: the methods, the first to begin with.
    """
    # What was uploaded is deleted when the server ends. By age Gradio would delete the examples as well.
    with gr.Blocks(title="audioprune", analytics_enabled=False, fill_width=True, delete_cache=(YEAR, YEAR)) as blocks:
        gr.HTML(f'<h1>{TITLE}</h1><p class="ap-intro">{INTRO}</p>', elem_classes="ap-head")
        message = gr.HTML(elem_id="message", visible=False)
        with gr.Row(elem_classes="ap-main"):
            with gr.Column(scale=4, min_width=320):
                sound, settings, run = _controls(models, choices, any_model)
            with gr.Column(scale=8, min_width=420):
                parts = _results(message)
        _wire(studio, {choice.name: choice for choice in choices}, sound, settings, run, parts)
    return blocks


def _controls(
    models: Sequence[str], choices: Sequence[Choice], any_model: bool
) -> tuple[gr.Audio, list[Any], gr.Button]:
    # Gradio's own button for sharing would send the sound to the hub.
    sound = gr.Audio(
        sources=["upload", "microphone"], type="filepath", label="Sound", buttons=["download"], elem_id="sound"
    )
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
        info="recommended merges similar tokens in every block",
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
    # The bounds stay what they are, whatever a method takes: what was sent before they moved would be refused.
    keep_rate = gr.Slider(
        LEAST,
        1.0,
        value=first.keep_rate,
        step=0.01,
        label="Keep rate",
        info="share of tokens that each pruned block keeps",
        elem_id="keep-rate",
    )
    # A number that no method takes gets the page's words, not Gradio's. (A subclass would make Gradio write a file
    # beside this one.)
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
            shown: dict[str, Any] = {"num_top_classes": SHOWN_LABELS, "min_width": 200}
            unpruned = gr.Label(label="Without pruning", elem_id="unpruned", **shown)
            pruned = gr.Label(label="With pruning", elem_id="pruned", **shown)
        drawn = gr.HTML(elem_id="picture")
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
    return Parts(message, hint, results, verdict, unpruned, pruned, costs, stage, drawn, gr.State(None))


def _wire(
    studio: Studio, choices: dict[str, Choice], sound: gr.Audio, settings: list[Any], run: gr.Button, parts: Parts
) -> None:
    model, method, keep_rate, score = settings

    def listen(*words: Any) -> dict[Any, Any]:
        return _listen(studio, parts, *words, again=False)

    def listen_again(*words: Any) -> dict[Any, Any]:
        return _listen(studio, parts, *words, again=True)

    # Not the stage: Gradio complains where one comes in that the answer before had and the latest has not.
    inputs = [sound, *settings, parts.heard]
    outputs = list(vars(parts).values())
    # Of what came in while the model was busy only the latest is answered.
    turn: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "model"}
    turn |= {"show_progress": "minimal", "show_progress_on": [parts.verdict], "api_visibility": "private"}
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawn: dict[str, Any] = {"fn": _drawn, "inputs": [parts.heard, parts.stage], "outputs": parts.picture, **quick}
    triggers = [sound.change, model.input, score.input, keep_rate.input]
    gr.on(triggers, listen, inputs, outputs, **turn).then(**drawn)
    run.click(listen_again, inputs, outputs, **turn).then(**drawn)
    adjusted = method.input(
        lambda name, rate: _adjusted(choices[name], rate, [choice.keep_rate for choice in choices.values()]),
        [method, keep_rate],
        [keep_rate, score],
        **quick,
    )
    adjusted.then(listen, inputs, outputs, **turn).then(**drawn)
    parts.stage.input(trigger_mode="always_last", **drawn)


def _adjusted(choice: Choice, keep_rate: float, defaults: Sequence[float]) -> tuple[float, Any]:
    """Keep rate and score as this method takes them: a rate that nobody chose gives way to the method's own."""
    chosen = keep_rate not in defaults and keep_rate >= choice.least
    return keep_rate if chosen else choice.keep_rate, gr.update(visible=choice.scored, value=OWN_SCORE)


def _listen(
    studio: Studio,
    parts: Parts,
    path: str | None,
    model: str,
    method: str,
    keep_rate: float,
    score: str,
    before: Heard | None,
    *,
    again: bool,
) -> dict[Any, Any]:
    """What changes on the page. Where a sound or a setting cannot be used, only the message does.

    again: answer even what was answered just now. Gradio tells of some changes twice.
    """
    if path is None:
        return {parts.message: gr.update(visible=False)}
    asked = (path, model, method, keep_rate, score)
    if before is not None and before.asked == asked and not again:
        return {parts.message: _noted(before.answer)}
    try:
        answer = studio.answer(Path(path), model, method, keep_rate, None if score == OWN_SCORE else score)
    except Exception as error:
        return {parts.message: _message(_failed(_reason(error, Path(path), model), before), "ap-error")}
    return {
        parts.message: _noted(answer),
        parts.hint: gr.update(visible=False),
        parts.results: gr.update(visible=True),
        parts.verdict: _verdict(answer, model),
        parts.unpruned: answer.unpruned.labels,
        parts.pruned: answer.pruned.labels,
        parts.bars: bars(answer) + _measured(answer),
        parts.stage: _slider(answer.stages, None if before is None else before.answer.stages),
        parts.heard: Heard(asked, answer),
    }


def _slider(stages: int, before: int | None) -> Any:
    """The listener's own stage is left alone while there are as many; else the last is shown."""
    if stages == before:
        return gr.skip()
    return gr.update(maximum=max(stages, 1), value=stages, interactive=stages > 0)


def _reason(error: Exception, path: Path, model: str) -> str:
    """What went wrong, in words for the page: no folders that nobody chose, and options without their dashes."""
    if not isinstance(error, EXPECTED):
        traceback.print_exception(error)
        return "Something went wrong here that should not; the terminal that serves this page has the details."
    said = re.sub(r"Error opening b?'.*?': ", "", str(error)).replace(str(path), path.name)
    with suppress(OSError):  # a model that is not there has no folder to hide
        said = said.replace(str(resolve(model)), model)
    return re.sub(r"--(?=[a-z])", "", said)


def _failed(said: str, before: Heard | None) -> list[str]:
    shown = [] if before is None else [f"What is shown below is still the answer to {escape(before.answer.name)}."]
    return [f"<b>{escape(said)}</b>", *shown]


def _noted(answer: Answer) -> Any:
    return _message([escape(note) for note in answer.notes], "ap-note")


def _message(lines: Sequence[str], kind: str) -> Any:
    """Lines of HTML, or nothing at all."""
    text = "".join(f"<div>{line}</div>" for line in lines)
    return gr.update(visible=bool(lines), value=f'<div class="ap-message {kind}" role="status">{text}</div>')


def _verdict(answer: Answer, model: str) -> str:
    if answer.agrees:
        kind, said = "ap-same", f"Both hear <b>{escape(answer.pruned.top)}</b>"
    else:
        said = f"They differ: <b>{escape(answer.unpruned.top)}</b> → <b>{escape(answer.pruned.top)}</b>"
        kind = "ap-different"
    setting = escape(" · ".join((answer.name, model, answer.method)))
    return f'<div class="ap-verdict {kind}">{said}</div><div class="ap-setting">{setting}</div>'


def _measured(answer: Answer) -> str:
    return (
        f'<div class="ap-measured">Milliseconds: medians of forwards taken in turn, of this one clip, on '
        f"{escape(answer.measured)}, just now. Fewer multiply-accumulates are not always less time: short clips gain "
        "less than the count says, and they may lose.</div>"
    )


def _drawn(heard: Heard | None, stage: float) -> Any:
    if heard is None:
        return gr.skip()
    # The slider may still be at a stage of the answer before.
    png, said = picture(heard.answer, min(int(stage), heard.answer.stages))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{escape(said)}"><figcaption>{escape(said)}</figcaption></figure>'
