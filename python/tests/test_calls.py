"""The package on NumPy's arrays, in the SIMT executor."""

import gc
import inspect
import pathlib

import numpy as np
import pytest

import lacuna

pytestmark = pytest.mark.skipif(not lacuna.has_simt, reason="built without the feature simt")


@pytest.fixture(scope="module")
def queue():
    return lacuna.Queue.simt()


def topk(n_rows, n, k, **options):
    return lacuna.TopkRowsPlan(n_rows=n_rows, n=n, k=k, dtype=lacuna.Dtype.F32, **options)


def outputs(n_rows, k):
    return {"indices": np.full((n_rows, k), -7, np.int32), "counts": np.full(n_rows, 77, np.uint32)}


def test_picks_are_the_largest(queue):
    scores = np.random.default_rng(1).standard_normal((5, 300), np.float32)
    found = outputs(5, 16)
    lacuna.topk_rows(queue, topk(5, 300, 16), scores=scores, **found)
    expected = np.sort(np.argsort(-scores, kind="stable", axis=1)[:, :16], axis=1)
    assert (found["indices"] == expected).all()
    assert (found["counts"] == 16).all()


def test_sizes_are_the_plans(queue):
    sizes = topk(3, 100, 8, row_stride=128).sizes
    assert (sizes["scores"], sizes["indices"], sizes["counts"]) == (2 * 128 + 100, 24, 3)


def test_offsets_are_honoured_and_strides_refused(queue):
    scores = np.random.default_rng(2).standard_normal((4, 64), np.float32)
    found = outputs(2, 4)
    lacuna.topk_rows(queue, topk(2, 64, 4), scores=scores[1:3], **found)
    expected = np.sort(np.argsort(-scores[1:3], axis=1)[:, :4], axis=1)
    assert (found["indices"] == expected).all()
    with pytest.raises(ValueError, match=r"scores is not contiguous: give scores.contiguous\(\)"):
        lacuna.topk_rows(queue, topk(64, 4, 4), scores=scores.T, **outputs(64, 4))


def test_refusals_say_what_and_why_and_write_nothing(queue):
    scores = np.zeros((2, 8), np.float32)
    found = outputs(2, 4)
    with pytest.raises(lacuna.Error, match="indices: expected 8, got 6") as caught:
        lacuna.topk_rows(queue, topk(2, 8, 4), scores=scores, **outputs(2, 3))
    assert caught.value.status is lacuna.Status.SHAPE
    with pytest.raises(lacuna.Error, match="dtype of indices: u32 is not one of i32") as caught:
        lacuna.topk_rows(queue, topk(2, 8, 4), scores=scores, indices=np.zeros((2, 4), np.uint32), counts=found["counts"])
    assert caught.value.status is lacuna.Status.DTYPE
    with pytest.raises(lacuna.Error, match="picks of a row: 9000 is outside 0..=8192") as caught:
        topk(2, 8, 9000)
    assert caught.value.status is lacuna.Status.RANGE
    with pytest.raises(TypeError, match="scores is a list, which has no __dlpack__"):
        lacuna.topk_rows(queue, topk(2, 8, 4), scores=[1.0], **found)
    with pytest.raises(OverflowError, match="n_rows"):
        topk(-1, 8, 4)
    with pytest.raises(TypeError, match="plan is a lacuna_weights"):
        other = type("Other", (), {"_raw": weights(queue)[0]._raw})()
        lacuna.topk_rows(queue, other, scores=scores, **found)
    assert (found["indices"] == -7).all() and (found["counts"] == 77).all()


def test_what_is_read_only_is_read_and_not_written(queue):
    scores = np.zeros((1, 8), np.float32)
    scores.setflags(write=False)
    lacuna.topk_rows(queue, topk(1, 8, 4), scores=scores, **outputs(1, 4))
    found = outputs(1, 4)
    found["indices"].setflags(write=False)
    with pytest.raises(ValueError, match="indices is written, and its memory is read-only"):
        lacuna.topk_rows(queue, topk(1, 8, 4), scores=scores, **found)


def test_bf16_is_bits_of_16(queue):
    scores = np.array([0x3F80, 0x4000, 0xBF80, 0x7F80], np.uint16)  # 1, 2, -1, infinity
    plan = lacuna.TopkRowsPlan(n_rows=1, n=4, k=2, dtype=lacuna.Dtype.BF16)
    found = outputs(1, 2)
    lacuna.topk_rows(queue, plan, scores=lacuna.Typed(scores, lacuna.Dtype.BF16), **found)
    assert found["indices"].tolist() == [[1, 3]]
    with pytest.raises(TypeError, match="scores: elements of 16 bits are not of that dtype"):
        lacuna.topk_rows(queue, plan, scores=lacuna.Typed(scores, lacuna.Dtype.F32), **found)


class OnAnotherDevice:
    """What a tensor in a GPU's memory answers."""

    def __dlpack_device__(self):
        return (2, 3)

    def __dlpack__(self, **options):
        raise AssertionError("nobody asks for its memory")


def test_memory_of_another_device_is_refused(queue):
    with pytest.raises(ValueError, match="scores is in memory of CUDA device 3, and the queue works on host memory"):
        lacuna.topk_rows(queue, topk(1, 8, 4), scores=OnAnotherDevice(), **outputs(1, 4))


def weights(queue):
    """A DF11 group of one code, of one bit: 128 weights of 1.0 and -1.0; what it is made of too."""
    n = 128
    signs = np.where(np.arange(n) % 2 == 0, 0x00, 0x80).astype(np.uint8)
    codes = np.zeros(n // 8, np.uint8)
    luts = np.zeros((2, 256), np.uint8)
    luts[0, :] = 127
    luts[1, 127] = 1
    group = lacuna.Df11Group(
        name="w",
        encoded_exponent=bytes(codes),
        sign_mantissa=bytes(signs),
        luts=bytes(luts),
        gaps=bytes(320),
        output_positions=np.array([0, n], "<u4").tobytes(),
    )
    return lacuna.weights_upload_df11(queue, [group]), signs


def test_df11_weights_are_expanded(queue):
    uploaded, signs = weights(queue)
    sizes = uploaded.sizes
    assert lacuna.weights_range(uploaded, 0) == (0, 128)
    workspace = np.zeros(sizes["workspace"], np.uint64)
    output = np.zeros(sizes["output"], np.uint16)
    lacuna.decode_weights(queue, uploaded, workspace=workspace, output=lacuna.Typed(output, lacuna.Dtype.BF16))
    lacuna.weights_check(queue, uploaded, workspace)
    assert (output == np.where(signs == 0, 0x3F80, 0xBF80)).all()


def test_a_driver_that_is_not_there_is_said(queue):
    try:
        lacuna.Device(0)
    except lacuna.Error as error:
        assert error.status in {lacuna.Status.NO_DRIVER, lacuna.Status.STUB_DRIVER, lacuna.Status.NO_DEVICE, lacuna.Status.DRIVER}
        assert "driver" in str(error).lower()


def test_handles_end_with_their_objects(queue):
    for _ in range(100):
        topk(2, 8, 4)
        weights(queue)
    gc.collect()


def test_no_call_goes_on_without_what_it_needs():
    """Each function of the table is called with nothing: it is refused by the library, in words, and nothing breaks."""
    functions = [f for _, f in inspect.getmembers(lacuna._calls, inspect.isfunction) if f.__module__ == "lacuna._calls"]
    assert len(functions) > 80
    refused = []
    for function in functions:
        values = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                empty = {"int": 0, "float": 0.0}
                values.append(empty.get(parameter.annotation, () if parameter.annotation.startswith("Sequence") else None))
        try:
            function(*values)
        except lacuna.Error as error:
            assert error.status in {lacuna.Status.NULL, lacuna.Status.RANGE}, (function.__name__, error)
            assert str(error)
            refused.append(function.__name__)
    # What asks nothing of memory or handles answers.
    assert {"topk_rows", "attend", "quantize_pages", "multiply_lane", "gather_kv", "decode_weights"} <= set(refused)
    assert len(refused) >= len(functions) - 12, sorted({f.__name__ for f in functions} - set(refused))


def test_attention_over_a_paged_cache(queue):
    """Structs in structs, structs by pointer and arrays of them, against plain attention."""
    rng = np.random.default_rng(3)
    n_tokens, n_heads, n_q_heads, dim, page = 37, 2, 4, 32, 8
    n_pages = 5
    shape = lacuna.KvShape(batch=1, n_heads=n_heads, row_len=dim, n_pages=n_pages, page_size=page, table_stride=n_pages,
                           dtype=lacuna.Dtype.F16, order=lacuna.KvOrder.NHD)
    pools = rng.standard_normal((2, n_pages, page, n_heads, dim)).astype(np.float16)
    table = np.array([[3, 0, 4, 1, 2]], np.int32)
    cache = lacuna.Kv(keys=pools[0], values=pools[1], page_table=table, lengths=np.array([n_tokens], np.uint32))
    queries = rng.standard_normal((1, n_q_heads, dim)).astype(np.float16)
    plan = lacuna.AttendPlan(segments=[lacuna.SegmentShape(cache=shape)], n_q_heads=n_q_heads, output_dtype=lacuna.Dtype.F32)
    outputs = np.full((1, n_q_heads, dim), np.nan, np.float32)
    workspace = np.zeros(plan.sizes["workspace"], np.uint32)
    lacuna.attend(queue, plan, queries=queries, segments=[lacuna.Segment(cache=cache)], outputs=outputs, workspace=workspace)

    rows = pools[:, table[0]].reshape(2, n_pages * page, n_heads, dim)[:, :n_tokens].astype(np.float64)
    for head in range(n_q_heads):
        keys, values = rows[:, :, head // (n_q_heads // n_heads)]
        logits = keys @ queries[0, head].astype(np.float64) / np.sqrt(dim)
        weights = np.exp(logits - logits.max())
        expected = weights @ values / weights.sum()
        assert np.abs(outputs[0, head] - expected).max() < 2e-3
    with pytest.raises(lacuna.Error, match="segments: expected 1, got 0"):
        lacuna.attend(queue, plan, queries=queries, outputs=outputs, workspace=workspace)


def test_weights_are_indexed_in_their_place(queue):
    uploaded, signs = weights(queue)
    assert (lacuna.weights_is_indexed(uploaded, 0), uploaded.sizes["n_plain_groups"]) == (0, 1)
    lacuna.weights_index(queue, uploaded)
    sizes = uploaded.sizes
    assert (lacuna.weights_is_indexed(uploaded, 0), sizes["n_plain_groups"]) == (1, 0)
    workspace = np.zeros(sizes["workspace"], np.uint64)
    output = np.zeros(sizes["output"], np.uint16)
    lacuna.decode_weights(queue, uploaded, workspace=workspace, output=lacuna.Typed(output, lacuna.Dtype.BF16))
    assert (output == np.where(signs == 0, 0x3F80, 0xBF80)).all()


def test_a_checkpoint_is_decoded(queue):
    """Groups of a file, uploaded without a copy in Python."""
    data = pathlib.Path(__file__).parents[2] / "tests/data/df11"
    checkpoint = lacuna.checkpoint_open(str(data / "qwen3-4b-slice.df11.safetensors"))
    group = lacuna.checkpoint_stored(checkpoint, 0)
    uploaded = lacuna.weights_upload_stored(queue, [group, group])
    lacuna.weights_index(queue, uploaded)
    sizes = uploaded.sizes
    workspace = np.zeros(sizes["workspace"], np.uint64)
    output = np.zeros(sizes["output"], np.uint16)
    lacuna.decode_weights(queue, uploaded, workspace=workspace, output=lacuna.Typed(output, lacuna.Dtype.BF16))
    lacuna.weights_check(queue, uploaded, workspace)
    file = (data / "qwen3-4b-slice.bf16.safetensors").read_bytes()
    original = np.frombuffer(file[8 + int.from_bytes(file[:8], "little"):], np.uint16)
    for place in range(2):
        start, end = lacuna.weights_range(uploaded, place)
        assert (output[start:end] == original).all()
    with pytest.raises(TypeError, match="groups is a Queue, and a lacuna_stored is needed"):
        lacuna.weights_upload_stored(queue, [queue])
