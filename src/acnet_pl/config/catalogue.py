"""Find the options of a run without importing the classes that have them."""

from __future__ import annotations

from dataclasses import dataclass, field

from acnet_pl.config.choices import PASSED, SLOTS, choices, resolve
from acnet_pl.config.settings import GROUPS, Setting
from acnet_pl.config.signatures import Parameter, Signature, signature
from acnet_pl.config.values import Values, values_of

__all__ = ["Catalogue", "KnownOption"]

_METHOD_SKIPS = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
_PARSERS_OWN = ("config", "print_config", "help", "h", "seed_everything")
# The more common ones first, where two are as near to what was typed.
_ORDER = ("trainer", "data", "model", "checkpoint")


@dataclass(frozen=True)
class KnownOption:
    """Option that exists.

    Attributes:
        name: Dotted name.
        parameter: The parameter that it sets.
        owner: The signature that has the parameter.
    """

    name: str
    parameter: Parameter
    owner: Signature

    @property
    def values(self) -> Values:
        """Return the values that the option takes."""
        return values_of(self.parameter.annotation, self.owner.module)


@dataclass
class Catalogue:
    """Options of a command.

    Attributes:
        command: fit, validate, test or predict.
        classes: Dotted path of the class that is chosen in each slot, as far as one is.
    """

    command: str
    classes: dict[str, str] = field(default_factory=dict)

    def choose(self, setting: Setting) -> None:
        """Record the class that a setting chooses, if any."""
        if setting.name in SLOTS and isinstance(setting.value, str):
            self.classes[setting.name] = resolve(setting.name, setting.value) or ""

    def owner(self, group: str) -> Signature | None:
        """Return the signature whose parameters are the options of a group or slot; None if unknown."""
        path = GROUPS.get(group) or self.classes.get(group)
        return signature(path) if path else None

    def options_of(self, group: str) -> dict[str, KnownOption]:
        """Return the options of a group or slot by dotted name; "" gives those of the run itself."""
        if group == "":
            method = signature(f"pytorch_lightning.Trainer.{self.command}")
            owners = [signature("acnet_pl.config.own_options.RunSettings"), method]
        elif group in SLOTS and group not in self.classes:  # no class is chosen yet: those of all that could be
            owners = [signature(path) for path in choices(group).values()]
        else:
            owners = [self.owner(group)]
        prefix, found = f"{group}." if group else "", {}
        for owner in owners:
            for name, parameter in owner.parameters.items() if owner else ():
                if name not in PASSED.get(group, ()) and not (group == "" and name in _METHOD_SKIPS):
                    found[f"{prefix}{name}"] = KnownOption(f"{prefix}{name}", parameter, owner)  # type: ignore[arg-type]
        return found

    @property
    def groups(self) -> list[str]:
        """Return the names of groups and slots, common ones first."""
        others = dict.fromkeys(name for name in (*GROUPS, *self.classes) if name not in (*_ORDER, *SLOTS))
        return ["", *_ORDER[:2], *SLOTS, *_ORDER[2:], *others]

    def names(self) -> list[str]:
        """Return the names of all options."""
        found: dict[str, None] = dict.fromkeys([*_PARSERS_OWN[:2], "seed_everything"])
        for group in self.groups:
            found.update(dict.fromkeys([group] if group else []))
            found.update(dict.fromkeys(self.options_of(group)))
        return [name for name in found if name != "model.num_classes"]

    def group_of(self, name: str) -> str:
        """Return the innermost group or slot that a dotted name is in, or ""."""
        parents = [group for group in self.groups if group and name.startswith(f"{group}.")]
        return max(parents, key=len, default="")

    def knows(self, name: str) -> bool | None:
        """Return True if an option of this name exists; None if that cannot be known here."""
        first = name.partition(".")[0]
        if name in SLOTS or name in GROUPS or (first in _PARSERS_OWN and first == name):
            return True
        group = self.group_of(name)
        if group in SLOTS and name.rpartition(".")[2] in ("init_args", "dict_kwargs", "help"):
            return True
        options, owner = self.options_of(group), self.owner(group)
        if group in self.classes and (owner is None or owner.is_open):
            return None  # a class of another package, or one with options of its own
        length = group.count(".") + 2 if group else 1
        return ".".join(name.split(".")[:length]) in options
