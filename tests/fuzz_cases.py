"""What the fuzz run draws: transformations, their arguments, trees of arrays."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st
from registry import REGISTRY

from diffgrad_optax import friction, schedules

FUNCTIONS = {f.__name__: f for f in (e.public or e.make for e in REGISTRY.values())}

# Few shapes, because each is compiled for itself.
SHAPES = ((), (0,), (2, 16), (3,), (2, 0), (2, 3), (1, 1, 2, 1))
REAL = ('float16', 'bfloat16', 'float32')
STORAGE = (None, 'float32', 'bfloat16', 'float16', 'float8_e5m2', 'float8_e4m3fn')


# Arguments of the package's functions, by name: at the edges of what is allowed, and
# in the ranges in which nothing overflows or underflows in any of the dtypes.

DECAYS = st.sampled_from([0, 0.0, 0.5, 0.9, np.float32(0.99), 0.999, 1 - 2**-20])
EPSILONS = st.sampled_from([0.0, 1e-30, 1e-8, 1, 1e30])
ALLOWED: dict[str, st.SearchStrategy[Any]] = {
    'learning_rate': st.sampled_from(
        [0, 0.0, 1e-3, 1e30, schedules.inverse_decay(0.1, 1.0)]
    ),
    'b1': DECAYS,
    'b2': DECAYS,
    'eps': EPSILONS,
    'eps_root': EPSILONS,
    'threshold': st.sampled_from([4, 5.0, 1e30]),
    'switch_tolerance': st.sampled_from([0.0, 1e-9, 1e30]),
    'weight_decay': st.sampled_from([0, 1e-4, 1e30]),
    'beta': DECAYS,
    'min_gain': st.sampled_from([0, 0.01, 1.0]),
    'max_gain': st.sampled_from([1, 100.0, 1e30]),
    'gamma': st.sampled_from([0, 0.025, 1e30]),
    'max_norm': st.sampled_from([0, 1.0, float('inf')]),
    'keep_prob': st.sampled_from([0, 0.5, 1.0]),
    # More is no int32, which optax makes of an injected integer.
    'key': st.integers(0, 2**31 - 1),
    'mu_dtype': st.sampled_from(STORAGE),
    'nu_dtype': st.sampled_from(STORAGE),
    'prev_grad_dtype': st.sampled_from(STORAGE),
    'nesterov': st.booleans(),
    'amsgrad': st.booleans(),
    'friction': st.sampled_from(list(friction.COEFFICIENTS)),
    'mask': st.sampled_from([None, True, False]),
    'block_size': st.sampled_from([1, 3, 16, 128]),
    'min_size': st.sampled_from([0, 7, 4096]),
    'nonnegative': st.just(('nu', 'nu_max')),
    'exact': st.sampled_from([(), ('z',)]),
}
MODERATE_DECAYS = st.sampled_from([0, 0.5, 0.9, 0.999])
MODERATE = {
    **ALLOWED,
    'learning_rate': st.sampled_from([0, 1e-3, schedules.inverse_decay(0.1, 1.0)]),
    'b1': MODERATE_DECAYS,
    'b2': MODERATE_DECAYS,
    'eps': st.sampled_from([1e-3, 1]),
    'eps_root': st.sampled_from([0, 1e-3]),
    'weight_decay': st.sampled_from([0, 1e-4, 1.0]),
    'gamma': st.sampled_from([0, 0.025, 1.0]),
    'max_norm': st.sampled_from([0, 1.0, 1e6]),
}
NUMBERS = (-1, -1e-9, 2**40, math.nan, math.inf, -math.inf, 1j)
WRONG = (*NUMBERS, 'x', '', 'int8', True, None, (), {}, object(), np.ones(2))


# What is built: a transformation of the package or of optax, around others or not.


class Spec(NamedTuple):
    name: str
    kwargs: Mapping[str, Any] = {}
    inner: tuple['Spec', ...] = ()


OPTAX: dict[str, Callable[..., Any]] = {
    'clip_by_block_rms': functools.partial(optax.clip_by_block_rms, 1.0),
    'clip_by_global_norm': functools.partial(optax.clip_by_global_norm, 1.0),
    'add_decayed_weights': functools.partial(optax.add_decayed_weights, 0.1),
    'identity': optax.identity,
    'ema': functools.partial(optax.ema, 0.9),
    'trace': functools.partial(optax.trace, 0.9),
    'scale_by_adam': functools.partial(optax.scale_by_adam, eps=1e-3),
    'scale_by_lion': optax.scale_by_lion,
}
matrices = functools.partial(jax.tree.map, lambda x: x.ndim > 1)
labels = functools.partial(jax.tree.map, lambda x: 'ab'[x.ndim > 1])
WRAPPERS: dict[str, Callable[..., Any]] = {
    'chain': optax.chain,
    'masked': lambda opt: optax.masked(opt, matrices),
    'partition': lambda a, b: optax.partition({'a': a, 'b': b}, labels),
    'MultiSteps': lambda opt: optax.MultiSteps(opt, 2).gradient_transformation(),
    'apply_if_finite': lambda opt: optax.apply_if_finite(opt, 1),
}


def build(spec: Spec) -> optax.GradientTransformation:
    inner = [build(inner) for inner in spec.inner]
    if spec.name in WRAPPERS:
        return WRAPPERS[spec.name](*inner)
    if spec.name == 'inject_hyperparams':
        (ours,) = spec.inner
        inject = optax.inject_hyperparams(FUNCTIONS[ours.name], **spec.kwargs)
        return inject(**ours.kwargs)
    return {**OPTAX, **FUNCTIONS}[spec.name](*inner, **spec.kwargs)


def specs(arguments):
    """Ours, alone and around optax's and within them."""

    def spec(name, *inner, kwargs=st.just({})):  # noqa: B008
        return st.builds(Spec, st.just(name), kwargs, st.tuples(*inner))

    def ours(name, *inner):
        taken = inspect.signature(FUNCTIONS[name]).parameters
        needed = {
            key
            for key, parameter in taken.items()
            # The default of eps is 0 in float16, and a mask alone is refused.
            if parameter.default is parameter.empty or key in ('eps', 'weight_decay')
        }
        chosen = {key: arguments[key] for key in taken if key != 'inner'}
        kwargs = st.fixed_dictionaries(
            {key: chosen[key] for key in chosen if key in needed},
            optional={key: chosen[key] for key in chosen if key not in needed},
        )
        return spec(name, *inner, kwargs=kwargs)

    wrapping = [
        f for f in FUNCTIONS if 'inner' in inspect.signature(FUNCTIONS[f]).parameters
    ]
    alone = st.sampled_from([f for f in FUNCTIONS if f not in wrapping]).flatmap(ours)
    # In bfloat16, whose 0.999 is 1, hyperparameters would be out of range.
    injected = spec(
        'inject_hyperparams', alone, kwargs=st.just({'hyperparam_dtype': jnp.float32})
    )
    theirs = st.sampled_from(list(OPTAX)).flatmap(spec)

    def around(inner):
        unary = st.sampled_from(['masked', 'MultiSteps', 'apply_if_finite'])
        return (
            unary.flatmap(lambda name: spec(name, inner))
            | spec('partition', inner, inner)
            | spec('chain', inner, inner)
            | spec('chain', inner, inner, inner)
            | st.sampled_from(wrapping).flatmap(lambda name: ours(name, inner))
        )

    return st.recursive(alone | alone | injected | theirs, around, max_leaves=3)


class Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: str


def trees(shapes, dtypes):
    """Nested containers, some of them empty, of leaves and None."""
    leaves = st.builds(Leaf, st.sampled_from(shapes), st.sampled_from(dtypes))
    return st.recursive(
        leaves | leaves | st.sampled_from([None, (), []]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.sampled_from('abc'), inner, max_size=3)
        ),
        max_leaves=5,
    ).filter(lambda tree: tree is not None)


class Case(NamedTuple):
    spec: Spec
    tree: Any
    grads: str | None  # their dtype, if it is not the parameters'.
    x64: bool
    lookahead: bool
    seed: int


def cases(arguments, shapes, dtypes, x64):
    return st.builds(
        Case,
        specs(arguments),
        trees(shapes, dtypes),
        st.sampled_from([None, *REAL]),
        st.just(x64),
        st.booleans(),
        st.integers(0, 2**16),
    )


def filled(tree, fill):
    """`tree` with fill(shape, dtype) for its leaves."""
    return jax.tree.map(
        lambda leaf: fill(leaf.shape, jnp.dtype(leaf.dtype)),
        tree,
        is_leaf=lambda node: isinstance(node, Leaf),
    )


def made(case):
    # Lookahead has parameters of its own kind: it is around everything.
    opt = build(case.spec)
    if case.lookahead:
        return optax.lookahead(opt, sync_period=2, slow_step_size=0.5)
    return opt


class Wrong(NamedTuple):
    name: str
    argument: str
    value: Any


def wrongs():
    """A wrong value, mostly, for any argument of any function."""
    return st.sampled_from(
        [
            (name, argument)
            for name, function in FUNCTIONS.items()
            for argument in inspect.signature(function).parameters
        ]
    ).flatmap(
        lambda pair: st.builds(Wrong, *map(st.just, pair), st.sampled_from(WRONG))
    )
