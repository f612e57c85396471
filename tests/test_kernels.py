"""The GPU kernels against the full attention map in float64: through Triton's interpreter, and on a GPU if there is
one."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import audioprune as ap
from audioprune.adapters.audio_lm.tap import summed_scores
from audioprune.attention import kernels

from .families import FAMILIES, inputs_for
from .settings import METHODS

pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

from audioprune.attention.kernels.interpreter import interpreted

INF = float("inf")
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the kernels run."""
    with interpreted() if request.param == "cpu" else nullcontext():
        yield request.param


Case = tuple[Tensor, Tensor, Tensor]


def tensors(
    device: str, n: int, width: int, batch: int = 2, heads: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Case:
    """Queries, keys and values (batch, heads, n, width) as a model has them, the heads of a token side by side."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(batch, n, heads, width, generator=generator).to(device, dtype) for _ in range(3)]
    return made[0].transpose(1, 2), made[1].transpose(1, 2), made[2].transpose(1, 2)


def bias_of(device: str, *shape: int) -> Tensor:
    """Logarithms of sizes from 1 to 9, and -inf for about every fourth key, but never for the first."""
    generator = torch.Generator().manual_seed(1)
    bias = torch.randint(1, 10, shape, generator=generator).float().log()
    filler = torch.rand(shape, generator=generator) < 0.25
    filler[..., 0] = False
    return bias.masked_fill(filler, -INF).to(device)


def votes_of(device: str, batch: int, patches: int) -> Tensor:
    """Weights from 0 to 1, of which about every third is 0, but never the first."""
    generator = torch.Generator().manual_seed(2)
    votes = torch.rand(batch, patches, generator=generator)
    votes[:, 1:] *= torch.rand(batch, patches - 1, generator=generator) > 0.3
    return votes.to(device)


def by_the_map(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, special: int, voters: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Context and attention received, by definition, in float64."""
    logits = query.double() @ key.double().transpose(2, 3) * query.shape[-1] ** -0.5
    weights = (logits if mask is None else logits + mask.double()).softmax(dim=-1)
    votes = weights[:, :, special:, special:]
    if voters is None:
        received = votes.mean(dim=2)
    else:
        shares = voters.double() / voters.double().sum(dim=1, keepdim=True)
        received = (shares[:, None, :, None] * votes).sum(dim=2)
    return weights @ value.double(), received


def check(case: Case, special: int, mask: Tensor | None = None, voters: Tensor | None = None) -> None:
    """The kernels give what the map gives."""
    query, key, value = case
    assert kernels.available(query, mask)
    context, received = kernels.attend_and_score(query, key, value, query.shape[-1] ** -0.5, mask, special, voters)
    expected_context, expected = by_the_map(query, key, value, mask, special, voters)
    assert context.dtype == query.dtype
    assert received.dtype == torch.float32
    tolerance = TOLERANCE[query.dtype]
    torch.testing.assert_close(context.double(), expected_context, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(received.double(), expected, atol=1e-6, rtol=1e-4)
    assert (received.sum(dim=2) <= 1 + 1e-5).all()


@pytest.mark.parametrize("n", [2, 17, 64, 130, 257])
@pytest.mark.parametrize("width", [8, 16, 24, 64, 80, 128])
def test_equal_the_map(device: str, n: int, width: int) -> None:
    batch = 2 if n < 100 else 1
    case = tensors(device, n, width, batch)
    check(case, 1, bias_of(device, batch, 1, 1, n), votes_of(device, batch, n - 1))


@pytest.mark.parametrize(
    ("n", "special"), [(n, special) for n in (1, 2, 17, 64, 130) for special in (0, 1, 2) if special < n]
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("voting", [False, True])
def test_special_tokens_masks_and_voters(device: str, n: int, special: int, masked: bool, voting: bool) -> None:
    mask = bias_of(device, 2, 1, 1, n) if masked else None
    check(tensors(device, n, 16, heads=1), special, mask, votes_of(device, 2, n - special) if voting else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [24, 64, 128])
@pytest.mark.parametrize("n", [17, 257])
def test_half_precision(device: str, dtype: torch.dtype, width: int, n: int) -> None:
    case = tensors(device, n, width, heads=1, dtype=dtype)
    check(case, 1, bias_of(device, 2, 1, 1, n).to(dtype), votes_of(device, 2, n - 1))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_mask_of_each_head(device: str, shape: tuple[int, int]) -> None:
    check(tensors(device, 70, 8, heads=3), 2, bias_of(device, *shape, 1, 70))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "tokens first": lambda x: x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3),
    "columns apart": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "one for all": lambda x: x[:1, :1].expand(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(device: str, layout: str) -> None:
    query, key, value = tensors(device, 67, 24)
    lay = LAYOUTS[layout]
    voters = votes_of(device, 65, 2).T
    for case in ((lay(query), key, value), (query, lay(key), value), (query, key, lay(value))):
        check(case, 2, bias_of(device, 67, 1, 1, 2).transpose(0, 3), voters)


def test_large_logits(device: str) -> None:
    """Beyond what an exponential can be of."""
    query, key, value = tensors(device, 50, 16)
    query = query * 300
    context, received = kernels.attend_and_score(query, key, value, 0.25, None, 1)
    expected_context, expected = by_the_map(query, key, value, None, 1, None)
    assert torch.allclose(context.double(), expected_context, atol=1e-3)  # a logit of 1000 is right to 1e-4
    assert torch.allclose(received.double(), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_to_look_at(device: str, dtype: torch.dtype) -> None:
    """A row without keys is 0, as with SDPA, and the other rows do not know of it."""
    query, key, value = tensors(device, 70, 16, dtype=dtype)
    mask = torch.zeros(2, 2, 1, 70, device=device, dtype=dtype)
    mask[1, 0] = -INF
    context, received = kernels.attend_and_score(query, key, value, 0.25, mask, 1)
    assert not context[1, 0].any()
    assert not received[1, 0].any()
    expected_context, expected = by_the_map(query, key, value, None, 1, None)
    for at in ((0, 0), (0, 1), (1, 1)):
        assert torch.allclose(context[at].double(), expected_context[at], atol=TOLERANCE[dtype])
        assert torch.allclose(received[at].double(), expected[at], atol=1e-6)


def test_voters_may_be_a_mask(device: str) -> None:
    check(tensors(device, 9, 8), 1, voters=votes_of(device, 2, 8) > 0)


def test_no_patch(device: str) -> None:
    query, key, value = tensors(device, 2, 8)
    context, received = kernels.attend_and_score(query, key, value, 8**-0.5, None, 2)
    assert torch.allclose(context.double(), by_the_map(query, key, value, None, 2, None)[0], atol=1e-5)
    assert received.shape == (2, 2, 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("special", [0, 1])
def test_without_values_there_is_no_context(device: str, masked: bool, special: int) -> None:
    query, key, value = tensors(device, 130, 24)
    mask = bias_of(device, 2, 1, 1, 130) if masked else None
    voters = votes_of(device, 2, 130 - special)
    context, received = kernels.attend_and_score(query.requires_grad_(), key, None, 0.25, mask, special, voters)
    assert context.numel() == 0
    assert torch.equal(received, kernels.attend_and_score(query.detach(), key, value, 0.25, mask, special, voters)[1])


@pytest.mark.parametrize("masked", [False, True])
def test_an_audio_towers_attention_is_scored_by_the_kernel(
    device: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of another length each, and one that is padding alone."""
    query, key, _ = tensors(device, 70, 16, batch=3)
    real = torch.arange(70, device=device) < torch.tensor([70, 0, 33], device=device)[:, None]
    calls, serve = [], kernels.attend_and_score
    monkeypatch.setattr(kernels, "attend_and_score", lambda *call: calls.append(call) or serve(*call))
    found = [summed_scores(query, key, 0.25, real, masked), summed_scores(query, key, 0.25)]
    assert len(calls) == 2
    monkeypatch.setattr(kernels, "_TRITON", False)
    for scores, expected in zip(
        found, (summed_scores(query, key, 0.25, real, masked), summed_scores(query, key, 0.25)), strict=True
    ):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    assert not found[0][1].any()
    assert torch.allclose(found[0].sum(dim=2), real.sum(dim=1)[:, None].float())


def test_same_input_same_bits(device: str) -> None:
    query, key, value = tensors(device, 130, 16)
    first, second = (kernels.attend_and_score(query, key, value, 0.25, None, 1) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_heads_of_a_token_lie_side_by_side(device: str) -> None:
    """The model's next layer wants (batch, N, heads · head_dim): no copy is left to make."""
    context, _ = kernels.attend_and_score(*tensors(device, 9, 8), 8**-0.5, None, 1)
    assert context.transpose(1, 2).is_contiguous()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(device: str, data: st.DataObject) -> None:
    draw = data.draw
    n = draw(st.integers(1, 100))
    special = draw(st.integers(0, min(2, n - 1)))
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    case = tensors(device, n, draw(st.integers(1, 70)), batch, heads, dtype, seed=draw(st.integers(0, 99)))
    rows, columns = draw(st.sampled_from([(1, 1), (batch, 1), (1, heads), (batch, heads)]))
    mask = bias_of(device, rows, columns, 1, n) if draw(st.booleans()) else None
    check(case, special, mask, votes_of(device, batch, n - special) if draw(st.booleans()) else None)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_the_context(device: str, masked: bool) -> None:
    mask = bias_of(device, 2, 1, 1, 40) if masked else None
    grads = []
    for by_kernels in (True, False):
        query, key, value = (x.clone().requires_grad_() for x in tensors(device, 40, 24))
        if by_kernels:
            context, received = kernels.attend_and_score(query, key, value, 24**-0.5, mask, 1)
            assert not received.requires_grad
            assert torch.allclose(received.double(), by_the_map(query, key, value, mask, 1, None)[1], atol=1e-6)
        else:
            context, _ = by_the_map(query, key, value, mask, 1, None)
        context.sin().sum().backward()
        grads.append([x.grad for x in (query, key, value)])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_gradient_of_the_mask(device: str) -> None:
    query, key, value = tensors(device, 20, 8)
    grads = []
    for attend in (kernels.attend_and_score, lambda q, k, v, _, *rest: by_the_map(q, k, v, *rest, None)):
        mask = torch.zeros(2, 1, 1, 20, device=device, requires_grad=True)
        attend(query, key, value, 8**-0.5, mask, 1)[0].sin().sum().backward()
        grads.append(mask.grad)
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_compiled_into_one_graph(device: str) -> None:
    torch._dynamo.reset()
    query, key, value = tensors(device, 33, 8)
    mask, voters = bias_of(device, 2, 1, 1, 33), votes_of(device, 2, 32)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        assert kernels.available(query, mask)
        context, received = kernels.attend_and_score(query, key, value, 8**-0.5, mask, 1, voters)
        return context * 2, received * 3

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for needs_gradient in (False, True):
        inputs = [x.clone().requires_grad_(needs_gradient) for x in (query, key, value)]
        context, received = compiled(*inputs)
        expected_context, expected = by_the_map(*inputs, mask, 1, voters)
        assert torch.allclose(context.double() / 2, expected_context, atol=1e-5)
        assert torch.allclose(received.double() / 3, expected, atol=1e-6)
    context.sin().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_are_of_torch_alone(device: str, strict: bool) -> None:
    class Attention(torch.nn.Module):
        def forward(self, query: Tensor) -> Tensor:
            if kernels.available(query):
                return kernels.attend_and_score(query, query, query, 1.0, None, 1)[0]
            return query.softmax(dim=-1)

    query, _, _ = tensors(device, 5, 8)
    program = torch.export.export(Attention(), (query,), strict=strict)
    assert "softmax" in str(program.graph)
    assert "audioprune" not in str(program.graph)


def test_operator_keeps_its_promises(device: str) -> None:
    from audioprune.attention.kernels.operator import attend

    query, key, value = tensors(device, 9, 8)
    for given_value, mask, voters in (
        (value, None, None),
        (value, bias_of(device, 2, 1, 1, 9), votes_of(device, 2, 8)),
        (None, None, None),
    ):
        torch.library.opcheck(attend, (query, key, given_value, mask, voters, 0.3, 1))


def test_what_the_kernels_can_serve(device: str) -> None:
    query, _, _ = tensors(device, 9, 8)
    assert kernels.available(query)
    assert kernels.available(query, torch.zeros(2, 1, 1, 9))
    assert kernels.available(query, torch.zeros(1, 2, 1, 9))
    assert not kernels.available(query, torch.zeros(2, 1, 9, 9))
    assert not kernels.available(query, torch.zeros(9, 9))
    assert not kernels.available(query, torch.zeros(2, 1, 1, 9, dtype=torch.bool))
    assert not kernels.available(query, dropout=0.1)
    assert not kernels.available(query, differentiable=True)
    with torch.no_grad():
        assert kernels.available(query, differentiable=True)
    for dtype in (torch.bfloat16, torch.float16):
        assert kernels.available(query.to(dtype))
    assert not kernels.available(query.double())
    assert kernels.available(torch.zeros(1, 1, 3, 256, device=device))
    assert not kernels.available(torch.zeros(1, 1, 3, 257, device=device))


def test_without_triton(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_TRITON", False)
    assert not kernels.available(tensors(device, 9, 8)[0])


def test_wrong_shapes_are_refused(device: str) -> None:
    query, key, value = tensors(device, 9, 8)

    def refused(pattern: str, *args: object) -> None:
        with pytest.raises(ValueError, match=pattern):
            kernels.attend_and_score(*args)  # type: ignore[arg-type]

    refused(r"key is \(2, 2, 8, 8\).*must equal.*\(2, 2, 9, 8\)", query, key[:, :, 1:], value, 1.0, None, 0)
    refused("value is .*float16", query, key, value.half(), 1.0, None, 0)
    refused("special is 10; .* number of tokens, 9", query, key, value, 1.0, None, 10)
    refused(r"mask is \(2, 1, 9, 9\)", query, key, value, 1.0, torch.zeros(2, 1, 9, 9), 0)
    refused(r"mask is \(2, 1, 1, 8\)", query, key, value, 1.0, torch.zeros(2, 1, 1, 8), 0)
    refused(r"voters is \(2, 9\); .*\(2, 8\)", query, key, value, 1.0, None, 1, torch.ones(2, 9))


def test_the_interpreter_leaves_nothing_behind() -> None:
    import triton.language as tl

    before, reduce, name = dict(os.environ), tl.reduce, "audioprune.attention.kernels.triton_attention"
    loaded = sys.modules.get(name)
    with interpreted():
        query, key, value = tensors("cpu", 9, 8)
        kernels.attend_and_score(query, key, value, 1.0, None, 0)
        assert kernels.available(query)
    assert not kernels.available(query)
    assert tl.reduce is reduce
    assert sys.modules.get(name) is loaded
    assert dict(os.environ) == before


def test_old_gpus_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked within a compiled graph too, where torch's own question could not be."""
    for capability, suits in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, known=capability: known)
        torch._dynamo.reset()
        asked = torch.compile(lambda x: x + kernels._is_recent(x.get_device()), fullgraph=True, backend="eager")
        assert asked(torch.zeros(1)).item() == suits


def test_importing_leaves_triton_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("triton", "audioprune.attention.kernels.triton_attention", "audioprune.attention.kernels.operator"):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it now gets an ImportError
    assert not runpy.run_path(kernels.__file__)["_TRITON"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["_attend", "_receive"])
def test_compile_for_a_gpu(name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes what the compiler may not: down to machine code for compute capability 9.0, and into the
    shared memory of smaller GPUs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton is not for NVIDIA's GPUs")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    received = import_module("audioprune.attention.kernels.triton_attention")
    kernel = getattr(received, name)
    held, streamed, options = received.tiles(64, dtype)
    pointer = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]
    constants = {
        **{"WIDTH": 64, "PADDED": 64, "HELD": held, "STREAMED": streamed},
        **{"PRECISION": "ieee", "BIASED": True, "ATTENDING": True, "VOTING": True},
    }
    types = dict.fromkeys(("query", "key", "value", "context"), pointer)
    types |= dict.fromkeys(("bias", "levels", "voters", "received"), "*fp32") | {"scale": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, {a: constants[a] for a in kernel.arg_names if a in constants})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 99 * 1024


@torch.no_grad()
@pytest.mark.parametrize("name", ["topk", "segments-merged"])
def test_a_pruned_model_keeps_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = FAMILIES["audiomae"]().eval(), inputs_for("audiomae")
    calls, serve = [], kernels.attend_and_score
    monkeypatch.setattr(kernels, "attend_and_score", lambda *call: calls.append(call) or serve(*call))
    with ap.prune(model, METHODS[name]), ap.trace(model) as trace:
        expected, kept = model(**inputs).logits, trace.kept
        with interpreted():
            assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)
        assert len(calls) == len(trace.kept)
        assert all(torch.equal(a, b) for a, b in zip(trace.kept, kept, strict=True))
