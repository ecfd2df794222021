"""Fields of states, by their names: which are never negative, and which stay exact."""

from collections.abc import Sequence
from typing import Any

import jax

from diffgrad_optax._paths import split_paths

# Fields of optax's states, unless said otherwise, by the arguments of `quantize_state`
# that have them by default.
NONNEGATIVE = (
    'nu',  # second moments of Adam and most others; our AdaDiff's too
    'nu_max',  # the largest of them so far: AMSGrad; our AdaDiff's too
    'n',  # second moments of Adan and of the simplified AdEMAMix
    'exp_avg_sq',  # those of Prodigy, D-Adapt AdamW and MoMo Adam
    'sum_of_squares',  # AdaGrad's sum of squared gradients
    'grad_sum_sq',  # MADGRAD's
    *('e_g', 'e_x'),  # mean squares of Adadelta's gradients and of its updates
    'step_sizes',  # Rprop's learning rate of each element
    'gains',  # our scale_by_gains' factor of each element
)
EXACT = (  # copies of parameters, and arrays that are subtracted from others
    'z',  # schedule_free: the parameters that the inner optimizer moves
    'x0',  # initial parameters: Mechanic, MADGRAD
    'params0',  # Prodigy
    'init_params',  # DoG and DoWG
    'init_particles',  # COCOB
    'params',  # the previous parameters: L-BFGS; the current ones: zoom line search
    'updates',  # the previous gradient: L-BFGS; the direction: zoom line search
    'grad',  # the gradient that a line search hands on
    'cache',  # SAM: the parameters before its adversarial steps
)


def names_on(path: Any) -> set[Any]:
    """The names of fields and the keys of dicts in `path`."""
    return {getattr(key, 'name', getattr(key, 'key', None)) for key in path}


def check_names(
    inner_state: Any, params: Any, nonnegative: Sequence[str], exact: Sequence[str]
) -> None:
    """Refuses, with a ValueError, names of fields that the inner state does not have.

    Defaults pass, and names of fields without leaves.
    """
    nodes = jax.tree.leaves_with_path(
        inner_state, is_leaf=lambda node: not jax.tree.leaves(node)
    )
    paths = [path for path, node in nodes if not jax.tree.leaves(node)]
    paths += [path for path, _ in split_paths(inner_state, params)]
    known = set().union(*map(names_on, paths))
    for argument, unknown in (
        ('nonnegative', {*nonnegative} - {*NONNEGATIVE} - known),
        ('exact', {*exact} - {*EXACT} - known),
    ):
        if unknown:
            fields = ', '.join(sorted(name for name in known if isinstance(name, str)))
            raise ValueError(
                f'{argument} names {min(unknown)!r}, but the state of inner has only '
                f'the fields {fields}'
            )
