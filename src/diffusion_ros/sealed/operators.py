"""Every operator that a checkpoint may use, and why. What is not here is refused before anything runs.

A checkpoint computes numbers from numbers. So it may have what makes tensors from tensors, and what Python needs around
that: lists, dictionaries, strings for names, conditions, and loops with a number of rounds. It may have nothing that
reaches beyond: no file (`from_file`, `save`), no output (`print`, `warn`), no clock (`time`), no profiler, no thread or
other process (`fork`, `rpc`), no memory that is not its own or not yet written (`set_`, `as_strided`, `empty`), no
classes of torch's own (`torch.classes`), nothing that is remembered between two calls (`SetAttr`), and no `while`, of
which nobody knows when it ends.

Operators bear their bare name here: `add` is aten::add with all its overloads. Noise needs a generator of the caller's:
`SEEDED`. A new network that needs another operator gets it here, with a test, if what is
said above stays true of it.
"""

from __future__ import annotations

import hashlib


def _names(text: str) -> list[str]:
    return text.split()


ARITHMETIC = _names("""
    abs add addcdiv addcmul addmm baddbmm bmm ceil clamp clamp_max clamp_min copysign cos cosh cross cumprod
    cumsum diff div divmod dot einsum erf erfinv exp exp2 expm1 floor floor_divide floordiv fmod frac hypot lerp
    linalg_cross linalg_norm linalg_vector_norm log log10 log1p log2 logaddexp logsumexp matmul maximum minimum
    mm mul mv neg norm outer pow prod reciprocal remainder round rsqrt rsub sgn sigmoid sign sin sinh sqrt
    square sub sum tan tanh trunc acos asin atan atan2 mean std std_mean var var_mean median amax amin aminmax
    max min argmax argmin true_divide nan_to_num trapezoid
""")  # fmt: skip
"""Numbers from numbers, each alone or summed. It depends on the arguments alone."""
COMPARISONS = _names("""
    eq ne lt le gt ge isclose isfinite isinf isnan logical_and logical_not logical_or logical_xor all any where
    bitwise_and bitwise_not bitwise_or bitwise_xor __and__ __or__ __xor__ __not__ __is__ __isnot__ __contains__
    searchsorted bucketize
""")  # fmt: skip
"""True or false from numbers."""
SHAPES = _names("""
    broadcast_tensors broadcast_to cat chunk contiguous diagonal dim expand expand_as flatten flip gather hstack
    index index_put index_select is_floating_point masked_fill masked_select meshgrid movedim moveaxis narrow
    numel numpy_T permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape roll rot90 scatter
    scatter_add select size slice sort argsort topk split split_with_sizes squeeze stack swapaxes t
    take_along_dim tensor_split transpose tril triu tril_indices triu_indices unbind unflatten unfold unsqueeze
    view view_as vstack type_as
""")  # fmt: skip
"""Where numbers stand: all of them check their bounds. `expand` and `repeat` can ask for much memory, which the trial
limits."""
FILLED = _names("""
    arange eye full full_like linspace logspace new_full new_ones new_zeros one_hot ones ones_like
    scalar_tensor tensor zeros zeros_like clone copy_ detach to fill_ zero_
""")  # fmt: skip
"""Tensors that are written before they can be read. `empty` is not here: it shows what lay in memory before."""
RANDOM = _names("""
    Generator manual_seed rand rand_like randn randn_like randint randperm normal bernoulli multinomial
""")  # fmt: skip
"""Noise, whose seed the caller gives."""
NETWORKS = _names("""
    _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d linear bilinear embedding batch_norm
    group_norm instance_norm layer_norm native_layer_norm native_group_norm rms_norm relu relu6 leaky_relu prelu
    elu selu celu gelu silu mish softplus hardtanh hardswish hardsigmoid glu softmax log_softmax dropout
    feature_dropout scaled_dot_product_attention adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d pad constant_pad_nd reflection_pad2d replication_pad2d upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d affine_grid_generator grid_sampler grid_sampler_2d
    cosine_similarity mse_loss l1_loss smooth_l1_loss lstm gru lstm_cell gru_cell threshold
    log_sigmoid hardshrink softshrink alpha_dropout
""")  # fmt: skip
"""Layers."""
GRADIENTS = _names("""
    grad requires_grad_
""")  # fmt: skip
"""Guides of planners and real-time chunking follow a gradient."""
IN_PLACE = _names("""
    add_ sub_ mul_ div_ neg_ clamp_ clamp_min_ clamp_max_ relu_ silu_ sigmoid_ tanh_ exp_ sqrt_ pow_ round_
    floor_ masked_fill_ index_put_ scatter_ index_copy_ squeeze_ unsqueeze_ dropout_ leaky_relu_ elu_ hardtanh_
    hardswish_ normal_ uniform_ mish_ gelu_ celu_ selu_ hardsigmoid_ lerp_ addcmul_ log_ rsqrt_ square_
    abs_ erf_ threshold_ relu6_
""")  # fmt: skip
"""The same as without the underscore, in the place of the argument. None changes how much memory a tensor has."""
PYTHON = _names("""
    __derive_index __getitem__ __range_length _set_item append extend insert pop remove reverse sorted copy list
    dict items keys values get setdefault update clear len format endswith startswith strip lstrip rstrip split
    replace join lower upper find count str ord chr item Int Float Bool IntImplicit FloatImplicit ScalarImplicit
    is_nonzero device ceil floor
""")  # fmt: skip
"""Lists, dictionaries and strings: names of inputs, texts of errors."""

ATEN = frozenset((
    *ARITHMETIC, *COMPARISONS, *SHAPES, *FILLED, *RANDOM, *NETWORKS, *GRADIENTS, *IN_PLACE, *PYTHON
))  # fmt: skip
"""aten:: operators, by bare name."""
PRIM = frozenset(_names("""
    Constant If Loop GetAttr CallMethod CallFunction ListConstruct ListUnpack TupleConstruct TupleUnpack
    TupleIndex TupleSlice DictConstruct NumToTensor unchecked_cast unchecked_unwrap_optional Uninitialized
    RaiseException device dtype layout max min type tolist is_cuda is_cpu rangelist isinstance
"""))  # fmt: skip
"""prim:: operators: conditions, loops, calls of what is in the same file, tuples, and what can be asked of a tensor. An
exception is a text, which is shown as a refusal. Not here: Print, CreateObject, SetAttr, fork, and all that a compiler
makes of others, which no file has."""
SEEDED = frozenset({*RANDOM, "normal_", "uniform_"}) - {"Generator"}
"""Of these, only overloads with a generator: the others change the process's own, which is not the caller's seed."""
BUILTINS = frozenset(_names("""
    annotate unchecked_cast uninitialized range sorted getattr isinstance int float bool str len min max abs inf nan
    tuple list Tensor List Dict Tuple Optional Union Final NoneType Device Generator Module number Scalar Layout
    ScalarType
"""))  # fmt: skip
"""Names that need no `torch.` in an archive's code: types, and the functions that Python itself has."""
METHODS = frozenset({"tolist"})
"""Methods of a tensor that an archive's code calls as such."""


def version() -> str:
    """Another one for another list."""
    names = sorted(f"aten {name}" for name in ATEN) + sorted(f"prim {name}" for name in PRIM)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
