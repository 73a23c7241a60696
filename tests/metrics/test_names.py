from pffdst.metrics import names


def test_every_constant_of_a_row_is_a_column_once():
    constants = {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)}
    columns = names.columns(["conv1.weight"])
    assert len(columns) == len(set(columns))
    assert constants <= set(columns)
    assert columns[0] == names.ROUND
    assert columns[-1] == "density/conv1.weight"


def test_derived_names():
    assert names.best_of(names.ACC_GLOBAL) == "best/acc_global"
    assert names.last5_of(names.EMA_ACC_CLIENT_MEAN) == "last5/ema_acc_client_mean"
    assert names.by_bytes(names.ACC_CLIENT_MEAN) == "by_bytes/acc_client_mean"


def test_everything_public_is_listed():
    public = {key for key in vars(names) if key.isupper()} - {"TYPE_CHECKING"}
    assert public <= set(names.__all__)
