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
        c = \operatorname{sign}(x)\, \operatorname{round}_t(y), \qquad
        \hat x = a\, \frac{c\,|c|}{C^2} \;\text{or}\; a\, \frac{c^4}{C^4}

    where :math:`a` is the largest :math:`|x|` of a block of neighbors along the last
    axis. The first form is for signed numbers (int8, :math:`C = 127`), the second for
    second moments (uint8, :math:`C = 255`). The rounding moves from step to step, so
    that a second moment, which loses 1/1000 a step, shrinks too.
    :doc:`/docs/theory/regularisers` has the rounding, :doc:`/docs/limits` the errors.

    Use it where the state does not fit: diffGrad's is 3.1 bytes per parameter instead
    of 12, Adam's 2.1 instead of 8. Codes are shaped and sharded like the parameter. It
    costs time on a CPU and little on a GPU: :doc:`/docs/performance`. The update of
    `inner` is traced twice, so prints and callbacks happen twice.

    Not quantized: arrays that are not shaped like a parameter, that have fewer than
    `min_size` elements or a last axis without a divisor in common with `block_size` of
    16 or more, and integers, float64, complex and 8-bit floating numbers.

    Works with all of optax but a few: give ``nonnegative=()`` for `optax.sm3` and
    `optax.contrib.sophia`; not for ``optax.rmsprop(centered=True)``, running maxima and
    `optax.contrib.cocob`. What goes outside and inside: :doc:`/docs/tutorials/memory`.

    Args:
      inner: any optax transformation.
      block_size: how many neighbors share a scale, >= 1; the block is its greatest
        common divisor with each device's part of the last axis. Static.
      min_size: arrays with fewer elements stay exact, >= 0. Inside `jax.shard_map` this
        counts one device's part: call `init` outside. Static.
      nonnegative: names of the state's fields or keys that are never below 0. Static.
      exact: names of the state's fields or keys to leave alone. Static.

    Returns:
      A transformation with state :class:`QuantizedState`. Updates have the gradients'
      dtype. Extra arguments go to `inner`.

    Raises:
      TypeError: if an argument, gradient, update or state is of a wrong type.
      ValueError: if an integer is too small, or (by `init`) a block would lie on two
        devices or the state has no field of a given name.

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
