"""lightning-bolts 0.7.0 under Lightning 2: import this module, and ``import pl_bolts`` works from then on.

lightning-bolts declares ``pytorch-lightning<2.0`` and imports ``pytorch_lightning.utilities.apply_func``, which
Lightning 2 moved to ``lightning_utilities.core.apply_func``. Where the old module is missing, its name is made to mean
the new one, just before ``pl_bolts`` is imported and only then; where it exists, nothing is changed. What ``pl_bolts``
warns of while it is imported says nothing to its users and is kept quiet; its warnings in use stay.

Raises:
    ModuleNotFoundError: lightning-bolts is not installed; the message says how to.

Examples:
    >>> import acnet_pl.integrations.bolts
    >>> from pl_bolts.datamodules import CIFAR10DataModule
    >>> CIFAR10DataModule("data/").num_classes
    10
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from acnet_pl.integrations import INSTALL

__all__ = ["BoltsFinder"]

_OLD, _NEW = "pytorch_lightning.utilities.apply_func", "lightning_utilities.core.apply_func"


class BoltsFinder(MetaPathFinder):
    """Import hook that loads ``pl_bolts`` under `_repaired`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of ``pl_bolts`` with a repairing loader; None for every other module."""
        if fullname != "pl_bolts":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _BoltsLoader(spec.loader)
        return spec


class _BoltsLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _repaired():
            self._loader.exec_module(module)


@contextmanager
def _repaired() -> Iterator[None]:
    """Allow ``pl_bolts`` to be imported, without warnings, within this context."""
    if find_spec(_OLD) is None:
        sys.modules[_OLD] = import_module(_NEW)
    with warnings.catch_warnings(record=True) as caught:
        # pl_bolts looks up aliases that NumPy removed, to restore them.
        warnings.filterwarnings("ignore", r"In the future `np\.\w+` will be defined", FutureWarning, r"pl_bolts$")
        yield
    # Its import warns of features under review. Its own filter for these warnings ended with the context above.
    under_review: type[Warning] = import_module("pl_bolts.utils.stability").UnderReviewWarning
    warnings.filterwarnings("once", category=under_review)
    for warning in caught:
        if not issubclass(warning.category, under_review):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


if find_spec("pl_bolts") is None:
    raise ModuleNotFoundError(
        f"acnet_pl.integrations.bolts needs lightning-bolts, which is not installed: `{INSTALL['pl_bolts']}` "
        "(it declares pytorch-lightning<2.0, and without --no-deps pip would install that)",
        name="pl_bolts",
    )
if not any(isinstance(finder, BoltsFinder) for finder in sys.meta_path):
    sys.meta_path.insert(0, BoltsFinder())
