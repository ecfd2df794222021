"""The tables as they were published, and which runs each of their numbers stands for.

Top-1 accuracies in per cent, of one run each. Rows without published numbers are this
package's: the control, Adam at half the learning rate, and the scale-free friction.
"""

from collections.abc import Iterator
from typing import NamedTuple

BATCH_SIZES = (32, 64, 128)
NOT_PUBLISHED = (None, None, None)

Accuracies = tuple[float | None, float | None, float | None]  # as BATCH_SIZES


class Row(NamedTuple):
    """One line of a table."""

    label: str
    optimizer: str  # a name of `experiments.lab.optimizers`
    cifar10: Accuracies = NOT_PUBLISHED
    cifar100: Accuracies = NOT_PUBLISHED
    activation: str = 'relu'

    def published(self, dataset: str) -> Accuracies:
        """As printed, for each batch size; the paper has no other data sets."""
        of_paper = {'cifar10': self.cifar10, 'cifar100': self.cifar100}
        return of_paper.get(dataset, NOT_PUBLISHED)


class Table(NamedTuple):
    """Rows, for one or two data sets and some batch sizes."""

    title: str
    rows: tuple[Row, ...]
    datasets: tuple[str, ...] = ('cifar10', 'cifar100', 'digits')
    batch_sizes: tuple[int, ...] = BATCH_SIZES


class Cell(NamedTuple):
    """What the runs of one number share, whatever their seed."""

    dataset: str
    batch_size: int
    optimizer: str
    activation: str


SGDM = Row('SGDM', 'sgdm', (92.95, 92.07, 90.15), (73.30, 70.37, 67.25))
ADAM = Row('Adam', 'adam', (93.78, 93.81, 93.72), (71.82, 73.31, 73.72))
HALF = Row('Adam, half the rate', 'adam-half')
DIFFGRAD = Row('diffGrad', 'diffgrad', (93.90, 94.05, 94.08), (75.40, 75.27, 75.05))
RELATIVE = Row('diffGrad, `relative_dfc`', 'adam+friction=relative_dfc')


def of_activation(name: str, activation: str, cifar10: Accuracies) -> tuple[Row, Row]:
    """One activation with diffGrad, and with its control."""
    return (
        Row(f'diffGrad, {name}', 'diffgrad', cifar10, activation=activation),
        Row(f'Adam, half the rate, {name}', 'adam-half', activation=activation),
    )


# In the order of their value: what is run first is in the first table.
TABLES = {
    'first': Table(
        'Is it only Adam at half the learning rate?',
        (SGDM, ADAM, HALF, DIFFGRAD, RELATIVE),
        datasets=('cifar10', 'digits'),
        batch_sizes=(128,),
    ),
    'I': Table(
        'Table I: optimizers',
        (
            SGDM,
            Row('AdaGrad', 'adagrad', (92.04, 92.01, 91.30), (71.01, 70.80, 68.38)),
            Row('AdaDelta', 'adadelta', (93.66, 93.48, 93.54), (73.46, 74.09, 74.12)),
            Row('RMSProp', 'rmsprop', (92.82, 92.32, 92.26), (65.31, 66.80, 62.65)),
            Row('AMSGrad', 'amsgrad', (93.73, 93.40, 93.51), (73.06, 72.45, 72.86)),
            ADAM,
            HALF,
            DIFFGRAD,
            RELATIVE,
        ),
    ),
    'II': Table(
        'Table II: other coefficients of friction',
        (
            HALF,
            DIFFGRAD,
            Row('diffGrad1', 'diffgrad1', (94.37, 94.08, 94.15), (75.31, 75.24, 75.05)),
            Row('diffGrad2', 'diffgrad2', (94.17, 94.18, 94.00), (75.55, 75.51, 75.06)),
            Row('diffGrad3', 'diffgrad3', (94.27, 94.08, 94.19), (74.32, 75.13, 75.45)),
            Row('diffGrad4', 'diffgrad4', (94.04, 94.33, 93.90), (74.83, 74.82, 75.25)),
            Row('diffGrad5', 'diffgrad5', (93.99, 93.97, 93.88), (74.95, 75.55, 74.86)),
        ),
    ),
    'III': Table(
        'Table III: activations in place of ReLU',
        (
            *of_activation('ReLU', 'relu', DIFFGRAD.cifar10),
            *of_activation('LeakyReLU(0.1)', 'leaky_relu', (94.31, 94.28, 94.16)),
            *of_activation('ELU', 'elu', (94.16, 94.16, 94.10)),
            *of_activation('SELU', 'selu', (93.48, 93.34, 93.38)),
        ),
        datasets=('cifar10', 'digits'),
    ),
}


def cells(table: Table, dataset: str) -> Iterator[Cell]:
    """What a table needs of a data set; large batches first, which are run fastest."""
    for batch_size in sorted(table.batch_sizes, reverse=True):
        for row in table.rows:
            yield Cell(dataset, batch_size, row.optimizer, row.activation)
