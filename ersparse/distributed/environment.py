"""Lightning's cluster environment for ranks that are started outside Lightning."""

from __future__ import annotations

from lightning_fabric.plugins import ClusterEnvironment


class RankEnvironment(ClusterEnvironment):
    """Environment of ranks started by rank 0 (`ersparse.distributed.launcher`), or by srun on several nodes."""

    def __init__(self, rank: int, size: int, address: str, port: int, local: int | None = None, node: int = 0) -> None:
        """Store where this rank stands among the others.

        Args:
            rank: global rank.
            size: number of ranks.
            address: host name or IP address of rank 0.
            port: port on which rank 0 listens.
            local: rank among the processes of the node; equal to `rank` if None.
            node: index of the node.
        """
        super().__init__()
        self.rank, self.size, self.address, self.port = rank, size, address, port
        self.local, self.node = rank if local is None else local, node

    @staticmethod
    def single() -> RankEnvironment:
        """Return the environment of a run on one device, which never communicates.

        Without an environment, Lightning chooses one by the variables of schedulers, and SLURM's would requeue the job.
        """
        return RankEnvironment(0, 1, "127.0.0.1", 0)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.address

    @property
    def main_port(self) -> int:
        return self.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.size

    def set_world_size(self, size: int) -> None:
        assert size == self.size, f"{self.size} ranks were started, the Trainer expects {size}"

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.rank, f"this is rank {self.rank}, the Trainer expects rank {rank}"

    def local_rank(self) -> int:
        return self.local

    def node_rank(self) -> int:
        return self.node
