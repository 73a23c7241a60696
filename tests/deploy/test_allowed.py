"""Which configurations a node follows: all that are shipped, and none that calls more than it seems to."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from omegaconf import OmegaConf

from pffdst.config.compose import session
from pffdst.core.errors import UserError
from pffdst.deploy.allowed import checked
from pffdst.deploy.records import BadRecord
from pffdst.engines.brief import brief

SOURCE: Any = SimpleNamespace(name="any", class_names=(), inputs=SimpleNamespace(words=dict))


def plain(opened: Any, *overrides: str) -> Any:
    """The configuration of a run with these options as the server sends it. A `???` stays one."""
    return brief(OmegaConf.to_container(opened.compose(overrides).cfg, resolve=True), SOURCE)["config"]


def test_every_shipped_option_is_one_that_a_node_builds(config_dir: Path) -> None:
    with session(config_dir) as opened:
        sent = plain(opened)
        options = {group: opened.options(group) for group in opened.groups() if group in sent}
        assert {"model", "codec", "optimizer", "objective", "augmentation", "lr_schedule", "faults"} <= {*options}
        options["model"].remove("hf")
        for choice in itertools.zip_longest(*options.values()):
            chosen = {group: option for group, option in zip(options, choice, strict=True) if option is not None}
            checked(plain(opened, *(f"{group}={option}" for group, option in chosen.items())), ())
        for method in opened.options("method"):
            checked(plain(opened, f"method={method}"), ())
        with pytest.raises(UserError, match="does not allow: it is not a class of torch modules"):
            checked(plain(opened, "model=hf"), ())  # reads a folder; nodes have no texts


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "pffdst.models.saved.Path.touch", "self": {"_target_": "pffdst.models.saved.Path"}},
        {"_target_": "pffdst.models.saved.Path"},
        {"_target_": "pffdst.models.saved.json.loads", "s": "1"},
        {"_target_": "pffdst.models.saved.load", "run": "x"},
        {"_target_": "pffdst.models.saved.SavedModel.read", "path": "x"},
        {"_target_": "pffdst.methods.windows.Windows.read", "path": "x"},
        {"_target_": "pffdst.models.saved.path_of", "run": "x"},
        {"_target_": "torch.nn.functional.warnings.warn", "message": "x"},
        {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "x", "model": "y"},
        {"_target_": "torch.nn.functional.torch.load", "f": "x"},
        {"_target_": "torch.nn.modules.module.register_module_forward_hook", "hook": {"_target_": "torch.nn.Identity"}},
        {"_target_": "torch.nn.Module.eval"},
        {"_target_": "torchvision.models.get_model", "name": "resnet18"},
        {"_target_": "torchvision.models.feature_extraction.create_feature_extractor"},
        {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
        {"_target_": "torchvision.models.resnet18", "pretrained": True},
        {"_target_": "torchvision.models.segmentation.deeplabv3_resnet50"},
        {"_target_": "torchvision.transforms.functional.to_tensor"},
        {"_target_": "torch.nnx.Linear"},
        {"_target_": "shutil.copyfile", "src": "a", "dst": "b"},
        {"_target_": ["torch.nn.Linear"]},
        {"_target_": "torch.nn.Identity", "_args_": [{"_target_": "torch.nn.Identity"}]},
        {"_target_": "torch.nn.Identity", "_partial_": True},
        {"_target_": "torch.nn.Identity", "_convert_": "all"},
        {"_target_": "torch.nn.Identity", "_recursive_": False},
        {"${oc.env:HOME}": 1},
        "${oc.env:HOME}",
        "text before ${oc.env:HOME}",
        "${..seed}",
        "${oc.create:'{_target_: shutil.copyfile, src: /etc/hostname, dst: x}'}",
    ],
    ids=str,
)
def test_what_hides_something_else_is_refused(node: Any) -> None:
    for config in ({"codec": node}, {"model": {"_target_": "torch.nn.Identity", "of": [{"deep": node}]}}):
        with pytest.raises(UserError, match=r"^setup: "):
            checked(config, ())


def test_a_configuration_as_text_is_none() -> None:
    with pytest.raises(BadRecord):
        checked("{codec: {_target_: shutil.copyfile}}", ())


def test_what_torch_and_torchvision_define_passes() -> None:
    names = ["torch.nn.Linear", "torch.optim.SGD", "torchvision.models.resnet18", "torchvision.models.ResNet"]
    names += ["torchvision.transforms.v2.Resize", "torchvision.transforms.InterpolationMode"]
    checked({str(i): {"_target_": name} for i, name in enumerate(names)}, ())
    checked({"model": {"_target_": "torchvision.models.segmentation.fcn_resnet50", "weights_backbone": None}}, ())


def test_an_operator_allows_packages_and_classes_where_they_live() -> None:
    ours, net = "tests.extensions.mine.", {"model": {"_target_": "tests.extensions.mine.rmsprop.RmsProp"}}
    for allow in (ours, ours[:-1], "tests.extensions.mine.rmsprop.RmsProp"):
        checked(net, (allow,))
    for allow in ("tests.extensions.min", "tests.extensions.mine.rmsprop.Rms"):
        with pytest.raises(UserError, match=r"'allow=\"tests\.extensions\.mine\.rmsprop\.\"'"):
            checked(net, (allow,))
    with pytest.raises(UserError, match=r"asks for tests.extensions.mine.rmsprop.torch.hub.load \(torch.hub.load\)"):
        checked({"model": {"_target_": "tests.extensions.mine.rmsprop.torch.hub.load"}}, (ours,))
    with pytest.raises(UserError, match="no module defines such a class"):
        checked({"model": {"_target_": "tests.extensions.mine.rmsprop.RmsProp.make"}}, (ours,))
