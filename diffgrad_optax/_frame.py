"""The frame of every transformation that keeps something of the step before.

An algorithm is two functions, written in float32 at least and without casts:

    init(params) -> state
    step(grads, state, *, params, **extra_args) -> updates, new_state, read

The state is a NamedTuple. One of its fields, such as `prev_grad`, holds what the next
step compares with, shaped like the parameters: `step` puts the new one into
`new_state`. `read` are trees (with an array or a list of arrays for each parameter)
that must be computed before the new one is written over the old one.

The frame does the rest. Gradients must fit the state; they and the state are widened;
updates come back in the gradients' dtypes, and the state in those of `init`; arrays of
the state are sharded like their parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffgrad_optax._dtypes import keep_state_dtypes, widened
from diffgrad_optax._fit import as_arrays, check_state, fitting_gradients
from diffgrad_optax._paths import split_paths
from diffgrad_optax._xla import false_like, write_after

#: What a step returns: updates, the new state, and what must be computed before.
Stepped = tuple[optax.Updates, Any, tuple[Any, ...]]


def framed(
    state_type: Any,
    init: Callable[[optax.Params], Any],
    step: Callable[..., Stepped],
    *,
    kept: str = 'prev_grad',
    inner: optax.GradientTransformationExtraArgs | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The transformation that `init` and `step` make.

    Args:
      state_type: the NamedTuple that `init` returns.
      init: makes the state.
      step: the algorithm.
      kept: the field that gradients must fit, and that is written last.
      inner: a transformation that takes its step first, from the gradients as they
        came. Its new state stands in the field `inner_state`, and `step` gets its
        updates as `inner_updates`.
    """

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        check_state(state, state_type)
        grads = fitting_gradients(updates, getattr(state, kept))
        fields = {name: getattr(state, name) for name in state_type._fields}
        wide = {name: widened(tree) for name, tree in fields.items()}
        if inner is not None:
            inner_updates, inner_state = inner.update(
                grads, state.inner_state, params, **extra_args
            )
            wide['inner_state'] = keep_state_dtypes(inner_state, state.inner_state)
            inner_updates = as_arrays(inner_updates, "inner's update")
            extra_args = {'inner_updates': widened(inner_updates)}
        updates, new_state, read = step(
            widened(grads), state_type(**wide), params=params, **extra_args
        )
        new_state = keep_state_dtypes(new_state, state_type(**fields))
        if read:
            new = jax.tree.map(
                write_after, getattr(new_state, kept), fields[kept], *read
            )
            new_state = new_state._replace(**{kept: new})
        return optax.tree.cast_like(updates, grads), new_state

    return optax.GradientTransformationExtraArgs(following_params(init), update_fn)


def following_params(
    init: Callable[[optax.Params], optax.OptState],
) -> Callable[[optax.Params], optax.OptState]:
    """`init`, whose arrays shaped like a parameter are sharded like it under jit too.

    Outside jit, zeros made like an array are sharded like it. Under jit they are
    constants, and with automatic axes a compiler is free to put those on one device:
    they are computed from the parameter instead. (Where a parameter is in host memory,
    `init` still makes its zeros in device memory; those are left where they are.)
    """

    def init_fn(params: optax.Params) -> optax.OptState:
        params_at = dict(jax.tree.leaves_with_path(params))
        false_at = functools.cache(lambda path: false_like(params_at[path]))

        def follow(leaf: Any, path: Any) -> Any:
            param = params_at.get(path)
            if (
                isinstance(param, jax.core.Tracer)
                and isinstance(leaf, jax.Array)
                and leaf.shape == param.shape
                and jax.typeof(leaf).memory_space == jax.typeof(param).memory_space
                and jnp.issubdtype(leaf.dtype, jnp.number)
            ):
                leaf += false_at(path).astype(leaf.dtype)
            return leaf

        state = init(params)
        treedef: Any
        leaves, treedef = jax.tree.flatten(state)
        paths = [path for _, path in split_paths(state, params)]
        return treedef.unflatten(map(follow, leaves, paths))

    return init_fn
