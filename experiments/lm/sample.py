"""Text from a network, one token at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.lab.optimizers import slow_weights
from experiments.lm.training import Task, initial_carry


def sample(
    params: Any,
    prompt: jax.Array,
    count: int,
    *,
    temperature: float,
    seed: int,
    task: Task,
) -> np.ndarray:
    """Continues `prompt` by `count` tokens.

    Each is drawn by what the network says after the window of tokens before it, as
    long as the prompt is.

    Args:
      params: of a state.
      prompt: tokens.
      count: of new tokens.
      temperature: below 1 prefers what is likely, 0 takes only the likeliest.
      seed: of the draws.
      task: what is fixed.
    """
    params = slow_weights(params)
    carry = initial_carry(task, params, 1)
    return np.asarray(
        draw(
            params,
            carry,
            prompt.astype(jnp.int32),
            jax.random.key(seed),
            temperature,
            count=count,
            graphdef=task.graphdef,
        )
    )


@functools.partial(jax.jit, static_argnames=('count', 'graphdef'))
def draw(
    params: Any,
    carry: Any,
    window: jax.Array,
    key: jax.Array,
    temperature: float,
    *,
    count: int,
    graphdef: Any,
) -> jax.Array:
    """`sample`, compiled."""

    def step(window: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        logits = model(window[None], carry).logits[0, -1]
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        token = drawn.astype(jnp.int32)
        return jnp.append(window[1:], token), token

    keys = jax.random.split(key, count)
    return jax.lax.scan(step, window, keys)[1]
