"""`quantize_state`: the state of any optax transformation in 8 bits."""

from collections.abc import Sequence
from typing import Any

import optax

from diffgrad_optax._checks import check
from diffgrad_optax._dtypes import stable_dtypes
from diffgrad_optax._fit import as_arrays, check_state
from diffgrad_optax._frame import following_params
from diffgrad_optax._params import check_one_set
from diffgrad_optax._quantize.fields import EXACT, NONNEGATIVE, check_names
from diffgrad_optax._quantize.plan import choose_codes, make_plan
from diffgrad_optax._quantize.state import QuantizedState
from diffgrad_optax._quantize.step import first_state, next_state, widen_gradients


def quantize_state(
    inner: optax.GradientTransformation,
    *,
    block_size: int = 128,
    min_size: int = 4096,
    nonnegative: Sequence[str] = NONNEGATIVE,
    exact: Sequence[str] = EXACT,
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
    moments), with uint8 and :math:`C = 255`. A block is `block_size` neighbors
    along the last axis, so that codes are shaped and sharded like the parameter,
    and scales are its shape with a shorter last axis. The state is decoded to
    float32 before each step of `inner`, gradients are widened to it, and the new
    state is encoded.

    Reach for it where the state does not fit: diffGrad's is 3.1 bytes per parameter
    instead of 12, Adam's 2.1 instead of 8. Rounding is noise, by which a step of
    diffGrad is off by some 9% of its length where gradients of a block differ by a
    factor of 100, and by 40% where by 10,000. Time: a GPU runs two large
    kernels for each array, one for its scales and one for the rest, if `inner` works
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
    callbacks happen twice. Under :func:`jax.jit` what no scale needs is dropped.

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
    :func:`jax.jit` with automatic axes it does not, and the state would be gathered
    on every device. Inside :func:`jax.shard_map` each device has blocks of its own
    part, rounded as those in the same places of another's. There `init` also sees the
    local part alone, so `min_size` and the blocks would depend on the mesh: call `init`
    outside, and only `update` inside.

    These arrays are not quantized: those that are not shaped like a parameter, have
    fewer than `min_size` elements, or have a last axis without a common divisor with
    `block_size` of 16 or more (or `block_size` itself if that is less); and those of
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
      block_size: how many neighbors share a scale, >= 1; the block is the greatest
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
        inner_state = inner_init(params)
        check_names(inner_state, params, nonnegative, exact)
        codes = choose_codes(
            inner_state, params, block_size, min_size, nonnegative, exact
        )
        return first_state(inner_state, codes)

    def update_fn(
        updates: optax.Updates,
        state: QuantizedState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, QuantizedState]:
        check_state(state, QuantizedState)
        updates = as_arrays(updates)

        def step(inner_state: Any) -> Any:
            grads = widen_gradients(updates, inner_state)
            return inner.update(grads, inner_state, params, **extra_args)

        new_updates, new_state = next_state(step, state, make_plan(state, updates))
        return optax.tree.cast_like(new_updates, updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
