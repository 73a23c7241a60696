"""BlazeFL's own FedAvg with its pool of threads, two at a time."""

import json
import sys
import threading

import torch
from blazefl.contrib.fedavg import FedAvgBaseServerHandler, FedAvgDownlinkPackage, FedAvgUplinkPackage
from blazefl.core import ThreadPoolClientTrainer, deserialize_model, serialize_model
from work import Net, Work, accuracy, mark, train

torch.manual_seed(0)
torch.set_num_threads(1)
work, net = Work(), Net()


class Clients(ThreadPoolClientTrainer):
    def __init__(self):
        self.num_parallels, self.device, self.device_count = 2, "cpu", 1
        self.cache, self.stop_event = [], threading.Event()

    def worker(self, cid, device, payload, stop_event):
        own = Net()
        deserialize_model(own, payload.model_parameters)
        size = train(own, work, cid)
        return FedAvgUplinkPackage(cid, serialize_model(own), size)

    def uplink_package(self):
        packages, self.cache = self.cache, []
        return packages


clients = Clients()
for t in range(int(sys.argv[1])):
    clients.local_process(FedAvgDownlinkPackage(serialize_model(net)), [int(k) for k in work.cohorts[t]])
    found = sorted(clients.uplink_package(), key=lambda p: p.cid)
    mean = FedAvgBaseServerHandler.aggregate([p.model_parameters for p in found], [p.data_size for p in found])
    deserialize_model(net, mean)
    mark()
print(json.dumps({"acc": accuracy(net, work)}))
