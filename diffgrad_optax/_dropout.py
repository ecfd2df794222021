"""Dropout of gradients and of learning rates: one mask, two places in a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._checks import check
from diffgrad_optax._fit import as_arrays, check_state
from diffgrad_optax._xla import false_like


class DropoutState(NamedTuple):
    """State of :func:`gradient_dropout` and :func:`learning_rate_dropout`."""

    key: jax.Array  #: of the next step's masks, a typed key.


def gradient_dropout(
    keep_prob: jax.typing.ArrayLike, key: jax.Array | int
) -> optax.GradientTransformationExtraArgs:
    r"""Sets random elements of the gradient to zero. Put it before the optimizer.

    .. math::

        g'_t = g_t \odot B_t, \qquad B_t \sim \mathrm{Bernoulli}(p)

    with :math:`p` `keep_prob`, independent for every element and every step. A
    dropped gradient is a zero for the moments that come after: a regulariser that
    makes momentum forget, where :func:`learning_rate_dropout` lets it see all.

    Not rescaled by 1/p: an optimizer that divides by the gradient's size (Adam)
    would not notice.

    Memory: one key for the whole tree. Time: a random number per element and step.

    The masks depend on the key, the step and the position of each array among the
    tree's leaves, on nothing else: they are the same under jit, in a scan, under
    any sharding and after a checkpoint (orbax stores typed keys). The same `key` may
    be given to both dropouts, which draw different masks from it, and to
    `optax.add_noise`; the groups of an `optax.partition` need keys of their own.

    Args:
      keep_prob: the probability that an element is kept, in [0, 1]. Traceable.
      key: an integer in [0, 2**32) or a typed key. The state keeps what is left
        of it, so `init` starts the same masks again. Traceable; inside
        :func:`optax.inject_hyperparams` an integer must be below 2**31.

    Returns:
      A transformation with state :class:`DropoutState`; dropped elements are
      exactly 0, NaN or not, the others and every dtype stay as they are.

    Raises:
      ValueError: if `keep_prob` or `key` is a plain number out of its range.
      TypeError: if `keep_prob` is no number or `key` neither integer nor a typed
        key, or (by `update`) if an update is neither array nor number or the state is
        that of another transformation.

    Example: another half of the elements moves at each step.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import gradient_dropout
    >>> optimizer = optax.chain(gradient_dropout(0.5, key=1), optax.sgd(1.0))
    >>> state = optimizer.init(jnp.zeros(8))
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.ones(8), state)
    ...     print(['moves' if u else '-' for u in updates])
    ['moves', '-', 'moves', 'moves', '-', '-', '-', '-']
    ['-', 'moves', '-', '-', 'moves', 'moves', 'moves', '-']

    References:
      Srivastava et al., `Dropout: A Simple Way to Prevent Neural Networks from
      Overfitting <https://jmlr.org/papers/v15/srivastava14a.html>`_, JMLR 15 (2014),
      for the masks, which act on activations there.
    """
    return _dropout(keep_prob, key, salt=0x67726164)


def learning_rate_dropout(
    keep_prob: jax.typing.ArrayLike, key: jax.Array | int
) -> optax.GradientTransformationExtraArgs:
    r"""Sets random elements of the update to zero. Put it after the optimizer.

    .. math::

        u'_t = u_t \odot B_t, \qquad B_t \sim \mathrm{Bernoulli}(p)

    with :math:`p` `keep_prob`, independent for every element and every step. Each
    step moves a random part of the parameters, with moments that have seen every
    gradient, as if the learning rate of the others were zero. Everything before it
    is dropped, decoupled weight decay too: put it last, inside `optax.lookahead`
    (but not with ``reset_state=True``, which fails on random keys) and
    `optax.contrib.sam` (with ``opaque_mode=True``, for the same reason).

    Not rescaled by 1/p, as in the paper: a run moves about :math:`p` as far as
    without it, so compare with the optimizer at :math:`p` times its learning rate.

    Memory, time and what the masks depend on: as :func:`gradient_dropout`.

    Args:
      keep_prob: the probability that an element moves, in [0, 1]; the paper has
        0.5. Traceable.
      key: an integer in [0, 2**32) or a typed key. Traceable.

    Returns:
      A transformation with state :class:`DropoutState`; dropped elements are
      exactly 0, NaN or not, the others and every dtype stay as they are.

    Raises:
      ValueError, TypeError: as :func:`gradient_dropout`.

    Example: elements that stayed make the whole step when it is their turn, because
    Adam has seen their gradients.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from diffgrad_optax import learning_rate_dropout
    >>> optimizer = optax.chain(optax.adam(0.1), learning_rate_dropout(0.5, key=1))
    >>> state = optimizer.init(jnp.zeros(8))
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(jnp.ones(8), state)
    ...     print([f'{u:.1f}' if u else '-' for u in updates])
    ['-0.1', '-0.1', '-0.1', '-0.1', '-0.1', '-', '-0.1', '-']
    ['-', '-0.1', '-', '-0.1', '-0.1', '-0.1', '-0.1', '-']

    References:
      Lin et al., `Learning Rate Dropout <https://arxiv.org/abs/1912.00144>`_, 2019.
    """
    return _dropout(keep_prob, key, salt=0x72617465)


def _dropout(
    keep_prob: jax.typing.ArrayLike, key: jax.Array | int, *, salt: int
) -> optax.GradientTransformationExtraArgs:
    """Keeps each element with probability `keep_prob`.

    `salt` tells apart what draws from the same key. It is large, because a small
    one would give the very keys that the user's own `jax.random.split` gives.
    """
    check(keep_prob=keep_prob, key=key)

    def init_fn(params: optax.Params) -> DropoutState:
        del params
        is_typed = isinstance(key, jax.Array) and jnp.issubdtype(
            key.dtype, jax.dtypes.prng_key
        )
        return DropoutState(
            jax.random.fold_in(key if is_typed else jax.random.key(key), salt)
        )

    def update_fn(
        updates: optax.Updates,
        state: DropoutState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, DropoutState]:
        del params, extra_args
        check_state(state, DropoutState)
        next_key, mask_key = jax.random.split(state.key)
        leaves, treedef = jax.tree.flatten(as_arrays(updates, 'update'))

        def dropped(index: int, leaf: jax.Array) -> jax.Array:
            # On explicit meshes a select takes only arrays that are sharded alike.
            never = false_like(leaf)
            # In float32, whatever keep_prob is given in: a narrower dtype would
            # draw from too few numbers, a wider one from others.
            p = jnp.asarray(keep_prob, jnp.float32) + never.astype(jnp.float32)
            leaf_key = jax.random.fold_in(mask_key, index)
            kept = jax.random.bernoulli(leaf_key, p, leaf.shape)
            return jnp.where(kept, leaf, never.astype(leaf.dtype))

        masked = [dropped(index, leaf) for index, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, masked), DropoutState(next_key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
