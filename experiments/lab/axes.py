"""Logarithmic axes with plain numbers."""

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter


def plain_log_scale(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, labelled 0.5, 1, 2 and not 5 × 10⁻¹.

    Call it when everything is drawn: over a long way fewer numbers have room.
    """
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    low, high = axes.get_ylim()
    if high > 5 * low:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_minor_formatter('{x:g}' if high < 1e4 * low else NullFormatter())
