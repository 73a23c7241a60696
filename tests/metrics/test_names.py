from pffdst.metrics import names


def test_every_constant_of_a_row_is_a_column_once():
    constants = {
        value for key, value in vars(names).items() if key in names.__all__ and key.isupper() and isinstance(value, str)
    }
    columns = names.columns(["conv1.weight"])
    assert len(columns) == len(set(columns))
    assert {name for name in constants if not names.is_of_an_option(name)} <= set(columns)
    assert columns[0] == names.ROUND
    assert columns[-1] == "density/conv1.weight"


def test_derived_names():
    assert names.best_of(names.ACC_GLOBAL) == "best/acc_global"
    assert names.last5_of(names.EMA_ACC_CLIENT_MEAN) == "last5/ema_acc_client_mean"
    assert names.by_bytes(names.ACC_CLIENT_MEAN) == "by_bytes/acc_client_mean"


def test_everything_public_is_listed():
    own = {key for key, value in vars(names).items() if getattr(value, "__module__", "") == names.__name__}
    public = {key for key in vars(names) if key.isupper() or key in own}
    public = {key for key in public if not key.startswith("_")} - {"TYPE_CHECKING"}
    assert public <= set(names.__all__)


def test_on_a_validation_set_every_scored_figure_has_another_name_and_comes_back():
    row = {
        name: i for i, name in enumerate((*names.columns(), names.metric("f1"), names.average_of(names.metric("f1"))))
    }
    shown = names.as_evaluated(row, "validation")
    assert not any(name.startswith("test/") for name in shown)
    assert {name for name in shown if name not in row} == {
        *("val/acc_global", "val/acc_client_mean", "val/ema_acc_global", "val/ema_acc_client_mean", "val/loss_global"),
        *("val/f1", "val/ema_f1"),
    }
    assert set(names.columns(split="validation")) == {n for n in shown if n not in ("val/f1", "val/ema_f1")}
    assert names.as_test(shown) == row
    assert names.as_evaluated(row, "test") == row
    assert (names.evaluated_on(0.0), names.evaluated_on(0.2)) == ("test", "validation")


def test_what_a_summary_tells_beside_the_last_row():
    row = {"round": 8, "val/acc_global": 0.5, "last5/acc_global": 0.4, "cost/bytes_up": 7, "cost/up/mask": 3}
    row |= {"model/alive": 9, "time/plan": 0.1, "val/f1": 0.6}
    known = {"rounds": 8, "acc_global": 0.5, "last5_acc_global": 0.4, "bytes_up": 7, "bytes_up_mask": 3, "alive": 9}
    known |= {"metrics": {"f1": 0.6}}
    only = {"method": "pffdst", "wall_s": 1.0, "time_plan": 0.8, "best_acc_global": 0.5}
    assert names.only_in(known | only, row) == only
