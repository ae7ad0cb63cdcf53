"""Which layers are pruned, and which of them have a density of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.density import DensityError
from ersparse.sparse.layers import Layer, parameter_names, prunable_layers

Rule = Callable[[list[Layer], float], list[float]]  # (layers, density) -> densities


@dataclass(frozen=True)
class Selection:
    """Which layers are pruned, and which of them have a density of their own.

    Patterns are those of a shell, for names of parameters: "*", "?", "[abc]". A shared parameter has several names.
    The default selects every prunable layer, and gives none a density of its own.

    Attributes:
        include: patterns of the layers that are pruned, embeddings among them; None is every layer but embeddings.
        exclude: patterns of layers that are left out all the same. They stay dense and do not count.
        densities: densities by pattern; of several patterns that match a layer, the last one counts.
        first_dense: whether the first selected layer has density 1.
        last_dense: whether the last selected layer has density 1.
        prefix: what messages write before a key, such as "sparsity.".
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    densities: Mapping[str, float] = field(default_factory=dict)
    first_dense: bool = False
    last_dense: bool = False
    prefix: str = ""

    @property
    def leaves_out(self) -> bool:
        """Whether the layers that are pruned are others than by default."""
        return self.include is not None or bool(self.exclude)

    def layers_of(self, module: nn.Module) -> list[Layer]:
        """Return the layers of `module` that are pruned, in network order.

        Raises:
            UserError: a pattern matches no layer, or all layers are left out.
        """
        layers = prunable_layers(module, embeddings=self.include is not None)
        names = parameter_names(module)
        included = self._matching("include", self.include, layers, names) if self.include is not None else layers
        excluded = self._matching("exclude", self.exclude, layers, names)
        if layers and not (found := [layer for layer in included if layer not in excluded]):
            key, patterns = ("exclude", self.exclude) if included else ("include", self.include or ())
            raise UserError(f"{self.prefix}{key}={_shown(patterns)}: leaves no layer to prune")
        return found if layers else []

    def _matching(
        self, key: str, patterns: Sequence[str], layers: list[Layer], names: Mapping[str, Sequence[str]]
    ) -> list[Layer]:
        matches = {pattern: [layer for layer in layers if _any(names[layer.name], pattern)] for pattern in patterns}
        for pattern, found in matches.items():
            if not found:
                raise UserError(f"{self.prefix}{key}={pattern}: matches no prunable weight, such as {layers[0].name}")
        return [layer for layer in layers if any(layer in found for found in matches.values())]

    def own_densities(self, layers: Sequence[Layer]) -> dict[str, float]:
        """Return the densities of the layers that have one of their own, by layer name.

        Args:
            layers: the layers that are pruned, in network order.

        Raises:
            UserError: a pattern matches no layer, or a layer would have two densities.
        """
        own: dict[str, float] = {}
        for pattern, density in self.densities.items():
            matching = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
            if not matching:
                raise UserError(f"{self.prefix}layers={{{pattern}: {density}}}: matches no layer that is pruned")
            if not 0 <= density <= 1:
                raise UserError(f"{self.prefix}layers={{{pattern}: {density}}}: must lie in [0, 1]")
            own |= dict.fromkeys(matching, density)
        ends = {"first_dense": (self.first_dense, layers[0].name), "last_dense": (self.last_dense, layers[-1].name)}
        for key, (dense, name) in ends.items():
            if dense and own.get(name, 1.0) != 1.0:
                raise UserError(f"{self.prefix}{key}=true: contradicts layers, which gives {name} density {own[name]}")
            if dense:
                own[name] = 1.0
        return own


def spread(rule: Rule, layers: list[Layer], density: float, own: Mapping[str, float]) -> list[float]:
    """Return the density of each layer: its own, or that of `rule`, which spends what is left of the budget.

    Args:
        rule: the density rule, a function (layers, density) -> densities.
        layers: the layers that are pruned, in network order.
        density: global density p in (0, 1].
        own: densities by layer name of the layers that have one of their own.

    Raises:
        DensityError: the budget cannot be met, or `rule` raises it.
    """
    if not own:
        return rule(layers, density)
    rest = [layer for layer in layers if layer.name not in own]
    budget, left_size = density * sum(layer.size for layer in layers), sum(layer.size for layer in rest)
    left = budget - spent(layers, own)
    if left < 0 or (left == 0 and rest):
        raise DensityError(f"layers with a density of their own keep {budget - left:,.0f} weights of {budget:,.0f}")
    if left > left_size * (1 + 1e-12):
        raise DensityError(
            f"layers without a density of their own have {left_size:,} weights, and {left:,.0f} are left to keep"
        )
    by_rest = iter(rule(rest, left / left_size) if rest else [])
    return [own[layer.name] if layer.name in own else next(by_rest) for layer in layers]


def spent(layers: Sequence[Layer], own: Mapping[str, float]) -> float:
    """Return how many weights the layers with a density of their own keep."""
    return sum(own[layer.name] * layer.size for layer in layers if layer.name in own)


def _any(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _shown(patterns: Sequence[str]) -> str:
    return f"[{','.join(patterns)}]"
