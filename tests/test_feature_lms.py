"""Audio-language models that are served by methods which look at the tokens themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import audioprune as ap
from audioprune.adapters.audio_lm.entries import ENTRIES

from . import audio_lms, feature_lms
from .feature_lms import FAMILIES, ask, build

FEATURE_ONLY = {
    "uniform": ap.UniformStride(0.25),
    "random": ap.TopK(0.25, score="random"),
    "random-merged": ap.TopK(0.25, score="random", dropped="merge"),
    "pooled": ap.AveragePooling(0.25),
    "evs": ap.EVS(0.25),
    "divprune-merged": ap.DivPrune(0.25, dropped="merge"),
    "dpp": ap.DPP(0.25, score="none"),
    "atome": ap.AToMe(0.25),
    "fastadasp": ap.FastAdaSP(0.25),
}
ENDS = [feature_lms.EOS, *{family.audio for family in FAMILIES.values()}]
"""No answer ends, or is a sound: random weights would say so."""
DTYPE = {"gemma4": torch.float32}
"""Its encoder computes in single precision here and there."""
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": ENDS}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return build(name).to(DTYPE.get(name, torch.float64))


def prompts(name: str) -> list[list[int | str]]:
    a, b, c = map(str, FAMILIES[name].clips)
    return [[10, 12, 8, a, 9, 13], [10, 8, b, 9, 14, 8, c, 9, 15, 16], [20, 21, 22]]


def inputs_of(name: str, asked: list[list[int | str]]) -> dict[str, Any]:
    wide = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in ask(name, asked).items()
    }
    return wide


def real_tokens(name: str) -> list[int]:
    """Of each clip, padding aside."""
    family = FAMILIES[name]
    return [(family.real or family.tokens)(n) for n in family.clips]


def test_every_entry_has_a_tiny_model() -> None:
    tiny = [*audio_lms.FAMILIES.values(), *FAMILIES.values()]
    assert {type(family.build()).__name__ for family in tiny} == ENTRIES.keys()


def test_one_changes_nothing(name: str, model: Any) -> None:
    inputs = inputs_of(name, prompts(name))
    logits, said = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    with ap.prune(model, ap.UniformStride(1.0)):
        assert torch.equal(model(**inputs).logits, logits)
        assert torch.equal(model.generate(**inputs, **GREEDY), said)
    assert torch.equal(model(**inputs).logits, logits)
    assert "generate" not in vars(model)


@pytest.mark.parametrize("method", FEATURE_ONLY.values(), ids=FEATURE_ONLY)
def test_a_quarter(name: str, model: Any, method: ap.Method) -> None:
    inputs = inputs_of(name, prompts(name))
    quarter = [-(-n // 4) for n in real_tokens(name)]
    length = inputs["input_ids"].shape[1]
    with ap.prune(model, method), ap.trace(model) as trace:
        said = model.generate(**inputs, **GREEDY)
        assert [int((row >= 0).sum()) for row in trace.kept[0]] == quarter
        assert torch.equal(said[:, :length], inputs["input_ids"])
        words = said[:, length:]
        # The whole answers in one forward without a cache. (By itself a prompt has other answers, pruned or not: some
        # of these encoders do not mask the padding of a batch of sounds.)
        talks = [[*asked, *row] for asked, row in zip(prompts(name), words.tolist(), strict=True)]
        logits = model(**inputs_of(name, talks)).logits[:, -words.shape[1] - 1 : -1]
        logits[:, :, ENDS] = float("-inf")
        assert torch.equal(logits.argmax(dim=-1), words)


def embeddings(model: Any, inputs: dict[str, Any]) -> Tensor:
    """(batch, length, width), what the unpruned model's language model reads."""
    found = []
    if hasattr(model.model, "language_model"):
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: found.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
    else:  # Phi-4
        hook = model.model.embed_tokens_extend.register_forward_hook(lambda module, args, output: found.append(output))
    model(**inputs)
    hook.remove()
    return found[0]


def test_what_is_read(name: str, model: Any) -> None:
    """Uniform stride, with the dropped embeddings cut out by hand."""
    family = FAMILIES[name]
    for asked in prompts(name):
        inputs = inputs_of(name, [asked])
        whole = embeddings(model, inputs)[0]
        keep, place = [], 0
        for part in asked:
            if isinstance(part, str):
                n = (family.real or family.tokens)(int(part))
                keep += [place + i * n // -(-n // 4) for i in range(-(-n // 4))]
                place += family.tokens(int(part))
            else:
                keep.append(place)
                place += 1
        with ap.prune(model, ap.UniformStride(0.25)) as handle:
            shorter = handle.shorten(inputs)
        read = shorter["inputs_embeds"][0] if "inputs_embeds" in shorter else whole
        assert torch.equal(read, whole[keep])


def test_shortened_before(name: str, model: Any) -> None:
    inputs = inputs_of(name, prompts(name))
    with ap.prune(model, ap.UniformStride(0.25)) as handle:
        said = model.generate(**inputs, **GREEDY)
        again = model.generate(**handle.shorten(inputs), **GREEDY)
    assert torch.equal(again[:, -5:], said[:, -5:])


def test_arguments_that_are_none(name: str, model: Any) -> None:
    inputs = inputs_of(name, prompts(name)[:1])
    with ap.prune(model, ap.UniformStride(0.5)):
        assert torch.equal(model(**inputs, labels=None).logits, model(**inputs).logits)


def test_attention_is_refused(name: str) -> None:
    model = build(name)
    with pytest.raises(ValueError, match="the attention of its encoder cannot be reached"):
        ap.prune(model, ap.SegmentwiseTopK(0.25))
    assert ap.handle(model) is None


def test_a_loss_and_its_gradients(name: str) -> None:
    model = build(name).train()
    inputs = ask(name, prompts(name)[:1])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with ap.prune(model, ap.AveragePooling(0.5)):
        model(**inputs, labels=labels).loss.backward()
    graded = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert len(graded) >= 2


def test_the_number_of_sounds_must_fit(name: str, model: Any) -> None:
    inputs = inputs_of(name, [prompts(name)[0]])
    inputs["input_ids"][0, 0] = feature_lms.FAMILIES[name].audio  # a second clip in the prompt
    with ap.prune(model, ap.UniformStride(0.5)), pytest.raises(ValueError, match="do not fit together"):
        model.generate(**inputs, **GREEDY)
