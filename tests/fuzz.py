"""Random chains of transformations on random trees: `make fuzz`, minutes of it.

Three properties, each a function of one case that Hypothesis draws:

- `keeps_types`: whatever the tree, its dtypes and the hyperparameters, `init` and
  `update` work, and no dtype or structure of updates or state changes.
- `stays_finite`: within documented ranges finite gradients leave a finite state.
- `refuses_by_name`: a wrong argument is a TypeError or ValueError that names it.

A few dozen cases of each are part of the tests (`test_fuzz_slice.py`).
"""

import argparse
import inspect
import itertools
import random
import time

import conftest  # noqa: F401
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
from fuzz_cases import (
    ALLOWED,
    FUNCTIONS,
    MODERATE,
    REAL,
    SHAPES,
    Case,
    Wrong,
    cases,
    filled,
    made,
    wrongs,
)

from diffgrad_optax import dequantize_state


def types(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def keeps_types(case: Case) -> None:
    """No dtype, shape or structure changes, at the edges of what is allowed."""
    with jax.enable_x64(case.x64):
        grads = params = filled(case.tree, jax.ShapeDtypeStruct)
        if case.lookahead:
            params = optax.LookaheadParams.init_synced(params)
        elif case.grads and case.spec.name in FUNCTIONS:
            # Ours take them; optax's promote updates or state.
            grads = filled(
                case.tree, lambda shape, _: jax.ShapeDtypeStruct(shape, case.grads)
            )
        try:
            opt = made(case)
            state = jax.eval_shape(opt.init, params)
            updates, new_state = jax.eval_shape(opt.update, grads, state, params)
        except TypeError as error:
            # Some need signs, and some storage has no imaginary part.
            if 'complex' not in str(error) or 'complex' not in str(case.tree):
                raise
            return
        assert types(updates) == types(params if case.lookahead else grads)
        assert types(new_state) == types(state)


def stays_finite(case: Case) -> None:
    """Three steps with finite gradients leave all of the state finite."""
    rng = np.random.default_rng(case.seed)

    def numbers(shape, dtype):
        # Zeros, ones and all between, of either sign.
        sizes = np.where(rng.random(shape) < 0.3, 0, 10 ** -rng.uniform(0, 4, shape))
        return jnp.asarray(sizes * rng.choice([-1, 1], shape), dtype)

    # Step by step: compiled, a few numbers take half a second.
    with jax.enable_x64(case.x64), jax.disable_jit():
        params = filled(case.tree, numbers)
        if case.lookahead:
            params = optax.LookaheadParams.init_synced(params)
        opt = made(case)
        state = opt.init(params)
        for _ in range(3):
            old = types((state, params))
            grads = filled(case.tree, numbers)
            updates, state = opt.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            assert types((state, params)) == old
            assert_finite(state, params)


def assert_finite(*trees):
    for leaf in jax.tree.leaves(dequantize_state(trees)):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert jnp.isfinite(leaf).all()


def refuses_by_name(wrong: Wrong) -> None:
    """What is neither taken nor refused by name is a crash."""
    function = FUNCTIONS[wrong.name]
    kwargs = {
        argument: DEFAULTS[argument]
        for argument, value in inspect.signature(function).parameters.items()
        if value.default is value.empty
    }
    params = {'w': jax.ShapeDtypeStruct((2, 16), jnp.dtype('float32'))}
    try:
        opt = function(**{**kwargs, wrong.argument: wrong.value})
        state = jax.eval_shape(opt.init, params)
        jax.eval_shape(opt.update, params, state, params)
    except (TypeError, ValueError) as error:
        # Of a mask whose tree is not the parameters', JAX says where, or jax 0.7 what.
        names = (wrong.argument, 'prefix pytree', 'Expected', 'key mismatch')
        assert any(name in str(error) for name in names), error


DEFAULTS = {'learning_rate': 0.1, 'keep_prob': 0.5, 'key': 0, 'inner': optax.identity()}
PROPERTIES = {
    keeps_types: cases(ALLOWED, SHAPES, (*REAL, 'complex64'), x64=False)
    | cases(ALLOWED, SHAPES, (*REAL, 'float64', 'complex64', 'complex128'), x64=True),
    stays_finite: cases(MODERATE, SHAPES[:3], REAL, x64=False)
    | cases(MODERATE, SHAPES[:3], (*REAL, 'float64'), x64=True),
    refuses_by_name: wrongs(),
}


def settings(examples: int, **more) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        **more,
    )


def main() -> None:
    """Runs the properties in turn until the time is over."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--minutes', type=float, default=5.0)
    parser.add_argument('--examples', type=int, default=100, help='of each, per seed')
    parser.add_argument('--seed', type=int, default=None, help='of the first round')
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    first = random.randrange(10**6) if args.seed is None else args.seed
    for seed in itertools.count(first):
        for check, strategy in PROPERTIES.items():
            print(f'seed {seed}: {args.examples} of {check.__name__}', flush=True)
            tests = settings(args.examples)(hypothesis.given(strategy)(check))
            hypothesis.seed(seed)(tests)()
            if time.monotonic() > end:
                return


if __name__ == '__main__':
    main()
