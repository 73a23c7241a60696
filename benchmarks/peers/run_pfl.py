"""pfl-research's FedAvg, in one process or, under torchrun, two."""

import itertools
import json
import os
import sys

os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from work import BATCH, DECAY, EPOCHS, LR, MOMENTUM, Net, Work, accuracy, mark

ROUNDS, RANK = int(sys.argv[1]), int(os.environ.get("RANK", 0))
torch.set_num_threads(max(1, 2 // int(os.environ.get("WORLD_SIZE", 1))))
torch.manual_seed(0)
np.random.seed(0)  # noqa: NPY002
work = Work()


class Model(Net):
    def loss(self, x, y, eval=False):
        self.train()
        return F.cross_entropy(self(work.norm(x)), y)

    @torch.no_grad()
    def metrics(self, x, y, eval=False):
        self.eval()
        return {"acc": Weighted(int((self(work.norm(x)).argmax(1) == y).sum()), len(y))}


class Shuffled(Dataset):
    def iter(self, batch_size):
        x, y = self.raw_data
        for b in torch.randperm(len(y)).split(batch_size):
            yield x[b], y[b]


class Marks(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        mark()
        return False, Metrics()


def client(k):
    return Shuffled(raw_data=list(work.client(k)), user_id=k, train_kwargs={}, eval_kwargs={})


def main() -> None:
    net = Model()
    order = itertools.chain(work.cohorts[:ROUNDS].ravel().tolist(), itertools.cycle([0]))
    data = FederatedDataset(client, lambda: next(order))
    model = PyTorchModel(
        net,
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=MOMENTUM, weight_decay=DECAY),
        torch.optim.SGD(net.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=ROUNDS,
            evaluation_frequency=10**9,
            train_cohort_size=work.cohorts.shape[1],
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(local_num_epochs=EPOCHS, local_learning_rate=LR, local_batch_size=BATCH),
        model_eval_params=NNEvalHyperParams(local_batch_size=500),
        callbacks=[Marks()] if RANK == 0 else [],
    )
    if RANK == 0:
        print(json.dumps({"acc": accuracy(net, work)}))


if __name__ == "__main__":
    main()
