"""The source of `sparsity.control=permute`: a ticket's mask, matched to the network of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from torch import Tensor, nn

from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.runs.network import Architecture, initial_network
from ersparse.sparse.channel_graph import GraphError
from ersparse.sparse.permuted_source import PermutedSource
from ersparse.sparse.source import TicketSource
from ersparse.storage.run_folder import network_tensors, read_network


def permuted_source(
    settings: Settings, source: TicketSource, built: Architecture, init_from: dict[str, Tensor] | None
) -> PermutedSource:
    """Return the masks of `sparsity.file`, to be matched to `init_from`, or to the first weights of the run.

    Raises:
        UserError: the network has no channel graph, or normalises groups of channels.
    """
    graph = built.graph
    if isinstance(graph, GraphError):
        raise UserError(f"sparsity.control=permute: {str(graph).replace(', or flow=none needs no channel graph', '')}")
    for name, module in built.module.named_modules():
        if isinstance(module, nn.GroupNorm) and 1 < module.num_groups < module.num_channels:
            raise UserError(
                f"sparsity.control=permute: {name} normalises {module.num_groups} groups of channels, which cannot be "
                "permuted"
            )
    weights = network_tensors(ticket_network(settings)[0])

    def others() -> Mapping[str, Tensor]:
        return initial_network(settings, init_from).state_dict()

    ticket = {item.name: getattr(source, item.name) for item in fields(source)}
    return PermutedSource(**ticket, weights=weights, others=others, graph=graph)


def ticket_network(settings: Settings) -> tuple[dict[str, Tensor], str]:
    """Return weights and masks of `sparsity.file`, and the hash of their file.

    Raises:
        UserError: it is not the folder of a finished run.
    """
    return read_network(Path(str(settings.sparsity.file)), f"sparsity.file={settings.sparsity.file}")
