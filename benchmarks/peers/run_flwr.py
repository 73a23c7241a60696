"""Flower's simulation with two actors."""

import json
import os
import sys

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import fl_client
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from work import Net, Work, accuracy, mark

ROUNDS = int(sys.argv[1])
server = ServerApp()


class Fixed(FedAvg):
    """Cohorts as they are given."""

    cohorts = None

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        # the strategy's messages share one record: each gets its own, with the client of the given cohort
        return [
            Message(
                content=RecordDict({**m.content, "config": ConfigRecord({"client": int(k)})}),
                message_type="train",
                dst_node_id=m.metadata.dst_node_id,
            )
            for m, k in zip(messages, self.cohorts[server_round - 1], strict=True)
        ]

    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, replies)
        mark()
        return found


@server.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
    torch.manual_seed(0)
    net, work = Net(), Work()
    size = work.cohorts.shape[1]
    share = size / len(work.idx)
    strategy = Fixed(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=size, min_available_nodes=size)
    strategy.cohorts = work.cohorts
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=ROUNDS)
    net.load_state_dict(result.arrays.to_torch_state_dict())
    print(json.dumps({"acc": accuracy(net, work)}), flush=True)


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=fl_client.app,
        num_supernodes=4000 if os.environ.get("TINY") else 400,
        backend_config={"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
