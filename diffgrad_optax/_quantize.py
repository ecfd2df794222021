"""Optimizer state in 8 bits, around any optax transformation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from diffgrad_optax import _blocks, _codes
from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import stable_dtypes, widened
from diffgrad_optax._fit import (
    as_arrays,
    check_fields,
    check_scales,
    check_shape,
    check_state,
    leaves_of,
)
from diffgrad_optax._frame import following_params
from diffgrad_optax._params import check_one_set
from diffgrad_optax._paths import arrays_beside, split_paths

# Fields of optax's and of this package's states that hold no negative numbers.
_NONNEGATIVE = (
    *('nu', 'nu_max', 'n', 'exp_avg_sq', 'sum_of_squares', 'grad_sum_sq'),
    *('e_g', 'e_x', 'step_sizes', 'gains'),
)
# Fields in which optax keeps copies of parameters, or what it takes differences of.
_EXACT = (
    *('z', 'x0', 'params0', 'init_params', 'init_particles'),
    *('params', 'updates', 'grad', 'cache'),
)


class QuantizedState(NamedTuple):
    """State of :func:`quantize_state`; checkpoints hold these field names."""

    #: t, int32, scalar.
    count: jax.Array  # type: ignore[assignment]
    inner_state: optax.OptState  #: the inner one's, codes in int8 or uint8 for arrays.
    scales: optax.OptState  #: its twin, in float32; None if exact.


def quantize_state(
    inner: optax.GradientTransformation,
    *,
    block_size: int = 128,
    min_size: int = 4096,
    nonnegative: Sequence[str] = _NONNEGATIVE,
    exact: Sequence[str] = _EXACT,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the state of `inner` in 8 bits, one scale for each block of numbers.

    .. math::

        y = C \sqrt{|x| / a} \;\text{or}\; C \sqrt[4]{x / a}, \qquad
        c = \operatorname{sign}(x) \left(
            \lfloor y \rfloor + [f(y) \ge r] \right), \qquad
        \hat x = a\, \frac{c\,|c|}{C^2} \;\text{or}\; a\, \frac{c^4}{C^4}

    where :math:`a` is the largest :math:`|x|` of the block, and the first form is
    that of signed numbers (momentum, previous gradients), with codes :math:`c` of
    int8 and :math:`C = 127`; the second is that of non-negative ones (second
    moments), with uint8 and :math:`C = 255`. A block is `block_size` neighbours
    along the last axis, so that codes are shaped and sharded like the parameter,
    and scales are its shape with a shorter last axis. The state is decoded to
    float32 before each step of `inner`, gradients are widened to it, and the new
    state is encoded.

    Reach for it where the state does not fit: diffGrad's is 3.1 bytes per parameter
    instead of 12, Adam's 2.1 instead of 8. Rounding is noise, by which a step of
    diffGrad is off by some 9% of its length where gradients of a block differ by a
    factor of 100, and by 40% where by 10,000. Time: on a GPU XLA makes two large
    kernels of each array, one for its scales and one for the rest, if `inner` works
    element by element; for diffGrad they take 0.94 times as long as in float32 on one
    large array, 1.09 on 145 and 1.8 on ResNet50's (H200). On a CPU it takes 1.5 to
    2.3 times as long, and Adam 3.2 times.

    Rounding goes up where :math:`f(y)`, the part of the way from :math:`\lfloor y
    \rfloor` to the next code, is at least a threshold :math:`r` in (0, 1). The way is
    measured in :math:`x` for signed numbers, :math:`f = (y^2 - \lfloor y \rfloor^2) /
    (2 \lfloor y \rfloor + 1)`, and in :math:`y` for the others. Each place's :math:`r`
    has its own start and moves by the golden ratio at every step. So while :math:`x`
    keeps still, :math:`\hat x` is :math:`x` on average, or :math:`c` is :math:`y`, and
    a number that is a code stays that code. (A momentum that goes through a cycle of a
    few steps may stay off by about the gap of two codes.) Rounded to the nearest code,
    a second moment, which loses 1/1000 a step, would never shrink.

    The step of `inner` is written twice, for the scales and for the codes: prints and
    callbacks happen twice. Under :func:`jax.jit` XLA drops what the scales do not need.

    Worst error: 1/63 of the block's largest :math:`|x|` for signed numbers, and
    1/127 of its largest :math:`\sqrt x` for non-negative ones, which is a whole code
    where codes are widest apart; it shrinks with :math:`y`, to 1/16129 and 1/65025. A
    positive number of the non-negative kind is never stored as 0: a step that is
    divided by it may be wrong, but is not infinite. (All this of numbers that are
    normal in float32; where :math:`a` is below 5e-29 small codes are read as 0.) A
    block with a number that is NaN, infinite, or negative under one of the names in
    `nonnegative`, is NaN when it is read, as a whole.

    Sharding: where the last axis is split over devices, `block_size` must divide
    each device's part of it. 768 numbers on 8 devices are 96 on each, so that blocks
    of 128 would lie on two: give ``block_size=32``. `init` refuses such blocks where
    it knows the sharding, that is of concrete arrays and of explicit axes. Inside
    :func:`jax.jit` with automatic axes it does not, and XLA would gather the state
    on every device. Inside :func:`jax.shard_map` each device has blocks of its own
    part, rounded as those in the same places of another's. There `init` also sees the
    local part alone, so `min_size` and the blocks would depend on the mesh: call `init`
    outside, and only `update` inside.

    Exact stay all arrays that are not shaped like a parameter, that have less than
    `min_size` elements, or whose last axis has no divisor in common with
    `block_size` that is 16 or more (or `block_size` itself if that is less); so do
    integers, float64, complex and 8-bit floating numbers.

    Not for moments that must fit each other to the last digit: the variance
    ν - μ² of ``optax.rmsprop(centered=True)`` may become negative, and its root
    NaN. Nor for running maxima, which rise with the noise (AMSGrad's steps shorten by
    some percent), for `optax.contrib.cocob`, which divides by sums of other names, or
    to take derivatives through: codes have none.

    `optax.sm3` calls its momentum `nu`, and `optax.contrib.sophia` its Hessian: give
    ``nonnegative=()``. `optax.adafactor` has second moments `v`: give ``('v',)``, but
    not around `optax.adan`, whose is signed.
    A field is found twice by its name, in `inner_state` and in `scales`: give the
    former alone to `optax.tree.get`, `optax.tree.set` and `value_and_grad_from_state`,
    or for exact ones, as an injected learning rate, ``lambda path, x: x is not None``
    as `filtering`. `optax.tree.map_params` takes no second tree where some are exact.
    :func:`optax.inject_hyperparams` goes inside, or around a function that makes all
    of it. `optax.lookahead` goes around it, `optax.monitor` before or behind it.

    Deviations. Dettmers et al. have blocks of 2048, a table of codes and the
    nearest code. FlashOptim compands signed numbers by :math:`2s / (1 + |s|)`, and
    square roots not at all; roots keep small numbers better.

    Args:
      inner: any optax transformation.
      block_size: how many neighbours share a scale, >= 1; the block is the greatest
        common divisor of it and the last axis. Static.
      min_size: arrays with fewer elements stay exact, >= 0. Inside
        :func:`jax.shard_map` these are the elements of one device's part. Static.
      nonnegative: names of state fields (of a NamedTuple, or keys of a dict) whose
        arrays are never negative. The default has those of optax, but for cocob's, and
        of this package. Static.
      exact: names of state fields to leave alone. The default has those in which
        optax keeps copies of parameters, or what it takes differences of. Static.

    Returns:
      A transformation with state :class:`QuantizedState`, whose `inner_state` is
      `inner`'s with codes for arrays and `scales` the same tree of their scales.
      Updates have the gradients' dtype. Extra arguments go to `inner`.

    Raises:
      TypeError: if `inner` is no transformation, a number is no integer,
        `nonnegative` or `exact` is no sequence of names, (by `init`) if `params`
        are `optax.LookaheadParams`, or (by `update`) if a gradient or an update of
        `inner` is neither array nor number or the state is that of another
        transformation.
      ValueError: if an integer is too small, or (by `init`) if a block would lie on
        two devices, or the state has no field of a name that is not in the default.

    Example: a hundred steps with a gradient of 1 in one half and 0.01 in the other.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from diffgrad_optax import diffgrad, quantize_state
    >>> params = jnp.zeros((64, 128), jnp.float32)
    >>> grads = jnp.ones_like(params).at[:, 64:].set(0.01)
    >>> for optimizer in (diffgrad(0.1), quantize_state(diffgrad(0.1))):
    ...     state = optimizer.init(params)
    ...     for _ in range(100):
    ...         updates, state = optimizer.update(grads, state)
    ...     nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    ...     print(updates[0, 0], updates[0, 64:].mean(), f'{nbytes / 64 / 128:.2f}')
    -0.05 -0.05 12.00
    -0.05 -0.0493 3.09

    References:
      Dettmers et al., `8-bit Optimizers via Block-wise Quantization
      <https://arxiv.org/abs/2110.02861>`_, ICLR 2022: blocks. `FlashOptim
      <https://arxiv.org/abs/2602.23349>`_: companding.
    """
    check(inner=inner, block_size=block_size, min_size=min_size)
    check(nonnegative=nonnegative, exact=exact)
    inner = stable_dtypes(optax.with_extra_args_support(inner))
    inner_init = following_params(inner.init)

    def init_fn(params: optax.Params) -> QuantizedState:
        check_one_set(params)
        params_at = dict(jax.tree.leaves_with_path(params))

        def encoded(leaf: Any, prefix: Any, path: Any) -> tuple[Any, Any]:
            param = params_at.get(path)
            fields = _names(prefix)
            block = _blocks.length(leaf, param, block_size, min_size)
            if block is None or not fields.isdisjoint(exact):
                return leaf, None
            _blocks.check_devices(prefix + path, param, block, block_size)
            dtype = jnp.int8 if fields.isdisjoint(nonnegative) else jnp.uint8
            scale = _codes.largest(leaf, block, dtype)
            r = jnp.full_like(leaf, 0.5, dtype=jnp.float32)
            return _codes.encode(leaf, scale, r, dtype), scale

        inner_state = inner_init(params)
        leaves, treedef = jax.tree.flatten(inner_state)
        paths = split_paths(inner_state, params)
        fields = {name for prefix, _ in paths for name in _names(prefix)}
        fields |= _leafless(inner_state)
        check_fields('nonnegative', set(nonnegative) - {*_NONNEGATIVE}, fields)
        check_fields('exact', set(exact) - {*_EXACT}, fields)
        pairs = [encoded(leaf, *p) for leaf, p in zip(leaves, paths, strict=True)]
        return QuantizedState(jnp.zeros((), jnp.int32), *_unzip(treedef, pairs))

    def update_fn(
        updates: optax.Updates,
        state: QuantizedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, QuantizedState]:
        # A block's scale must be known before its first code, and until then XLA would
        # keep the new state in float32, which moves more memory than a step without
        # codes. So the step is written twice: for the new scales alone (XLA drops what
        # they do not need), then from the old codes again for updates and new codes.
        # Barriers hide from XLA:GPU, and from XLA:CPU since jax 0.12, that both are the
        # same; one for each array, to finish it while its gradient is in the cache.
        check_state(state, QuantizedState)
        updates = as_arrays(updates)
        pairs, treedef = _pairs(state)
        paths = split_paths(state.inner_state, updates)
        count = optax.safe_increment(state.count)

        def wide(grad: jax.Array, stored: list[jax.Array]) -> Any:
            # All in 8-bit floats has no arithmetic with what is wider.
            narrow = stored and all(array.dtype.itemsize == 1 for array in stored)
            return grad if narrow else widened(grad)

        def step(state: QuantizedState) -> tuple[optax.Updates, list[Any]]:
            inner_state = _decoded(state)
            grads = jax.tree.map(wide, updates, arrays_beside(inner_state, updates))
            new_updates, inner_state = inner.update(
                grads, inner_state, params, **extra_args
            )
            return new_updates, leaves_of(inner_state, treedef)

        def rescaled(
            leaf: Any, codes: Any, scale: Any, prefix: Any, path: Any
        ) -> tuple[Any, Any]:
            """The old codes again, behind the barrier, and the new scale."""
            if scale is None:
                return codes, None
            check_shape(prefix + path, leaf, codes)
            block = codes.shape[-1] // scale.shape[-1]
            pair = codes, _codes.largest(leaf, block, codes.dtype)
            hidden: tuple[Any, Any] = lax.optimization_barrier(pair)  # type: ignore[no-untyped-call]
            return hidden

        _, leaves = step(state)
        hidden = [
            rescaled(leaf, *pair, *path)
            for leaf, pair, path in zip(leaves, pairs, paths, strict=True)
        ]
        inner_state, _ = _unzip(treedef, hidden)
        new_updates, leaves = step(state._replace(inner_state=inner_state))

        grad_paths = jax.tree.leaves_with_path(updates)
        number_of = {path: number for number, (path, _) in enumerate(grad_paths)}
        fields: dict[Any, int] = {}
        hashes: dict[Any, jax.Array] = {}

        def encoded(
            leaf: Any, codes: Any, scale: Any, prefix: Any, path: Any
        ) -> tuple[Any, Any]:
            if scale is None:
                return leaf, None
            if path not in hashes:
                hashes[path] = _codes.hashes(codes, number_of[path])
            field = fields.setdefault(prefix, len(fields))
            r = _codes.thresholds(hashes[path], field, count)
            return _codes.encode(leaf, scale, r, codes.dtype), scale

        new_pairs = [
            encoded(leaf, *pair, *path)
            for leaf, pair, path in zip(leaves, hidden, paths, strict=True)
        ]
        new_state = QuantizedState(count, *_unzip(treedef, new_pairs))
        return optax.tree.cast_like(new_updates, updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def dequantize_state(opt_state: optax.OptState) -> optax.OptState:
    """The state with float32 arrays for codes, as the transformations inside have it.

    To go on without 8 bits, or to look at a moment: each :class:`QuantizedState` in
    `opt_state` is replaced by its decoded `inner_state`; everything else stays.

    Args:
      opt_state: any optimizer state, such as a chain's.

    Returns:
      The state of the optimizer without :func:`quantize_state`. What had codes is
      float32, also where the inner transformation would store bfloat16.

    Raises:
      ValueError: if `scales` do not fit the `inner_state` that they stand beside.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import dequantize_state, quantize_state
    >>> optimizer = quantize_state(optax.trace(0.9), min_size=0)
    >>> grads = jnp.linspace(0.0, 1.0, 16, dtype=jnp.float32)
    >>> _, state = optimizer.update(grads, optimizer.init(grads))
    >>> print(state.inner_state.trace[-4:], dequantize_state(state).trace[-4:])
    [114 118 123 127] [0.8058 0.8633 0.938  1.    ]
    """
    return jax.tree.map(
        lambda node: _decoded(node) if isinstance(node, QuantizedState) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, QuantizedState),
    )


def _decoded(state: QuantizedState) -> optax.OptState:
    """The inner state, with float32 arrays for codes."""
    pairs, treedef = _pairs(state)
    return treedef.unflatten(
        leaf if scale is None else _codes.decode(leaf, scale) for leaf, scale in pairs
    )


def _names(path: Any) -> set[Any]:
    """The names of fields and the keys of dicts in `path`."""
    return {getattr(key, 'name', getattr(key, 'key', None)) for key in path}


def _leafless(tree: Any) -> set[Any]:
    """The names on the way to subtrees without leaves, such as empty moments."""

    def empty(node: Any) -> bool:
        return not jax.tree.leaves(node)

    nodes = jax.tree.leaves_with_path(tree, is_leaf=empty)
    return {name for path, node in nodes if empty(node) for name in _names(path)}


def _pairs(state: QuantizedState) -> tuple[list[tuple[Any, Any]], Any]:
    """Each leaf of the inner state with its scale, and their tree."""
    check_scales(state.scales, state.inner_state)
    # By their paths: NNX puts what is an array into a node, and leaves None as it is.
    scale_at = dict(jax.tree.leaves_with_path(state.scales))
    leaves, treedef = jax.tree.flatten_with_path(state.inner_state)
    return [(leaf, scale_at.get(path)) for path, leaf in leaves], treedef


def _unzip(treedef: Any, pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    return (
        treedef.unflatten(leaf for leaf, _ in pairs),
        treedef.unflatten(scale for _, scale in pairs),
    )
