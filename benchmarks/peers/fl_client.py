"""Flower's client."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from work import Net, Work, train

app = ClientApp()
_work: list[Work] = []


@app.train()
def fit(msg: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
    if not _work:
        torch.set_num_threads(1)
        _work.append(Work())
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    samples = train(net, _work[0], int(msg.content["config"]["client"]))
    metrics = MetricRecord({"num-examples": samples})
    return Message(content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)
