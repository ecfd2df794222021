"""What each argument may be: one table for all functions of the package.

A name means the same wherever it is an argument. `friction` alone is not here:
`friction.resolve` refuses it where it looks up the coefficient.
"""

from collections.abc import Callable
from typing import Any

from diffgrad_optax._kinds import Dtype, Integer, Number, flag, inner, key, mask, names

_MAY_BE: dict[str, Callable[[str, Any], None]] = {
    'learning_rate weight_decay': Number('[0, inf)', or_schedule=True),
    'eps eps_root gamma switch_tolerance c': Number('[0, inf)'),
    'init_value peak_value decay_rate': Number('[0, inf)'),
    'max_norm': Number('[0, inf]'),
    'max_gain': Number('[1, inf)'),
    'threshold': Number('[4, inf)'),
    'b1 b2 beta': Number('[0, 1)'),
    'min_gain keep_prob': Number('[0, 1]'),
    'min_size': Integer(low=0),
    'block_size': Integer(low=1),
    'transition_steps': Integer(low=1, below=2**31),
    'nesterov amsgrad': flag,
    'mu_dtype prev_grad_dtype': Dtype(),
    'nu_dtype': Dtype(real=True),
    'nonnegative exact': names,
    'mask': mask,
    'key': key,
    'inner': inner,
}
_KIND_OF = {name: kind for row, kind in _MAY_BE.items() for name in row.split()}


def check(**arguments: Any) -> None:
    """Refuses the first of `arguments` that is not what the table allows.

    Raises:
      TypeError: if it is of another kind; the message names it and what is allowed.
      ValueError: if it is a plain number out of its range.
    """
    for name, value in arguments.items():
        _KIND_OF[name](name, value)
