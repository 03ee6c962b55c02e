"""Config files and overrides: what they mean, and what is said where they are wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg

from detkit.config import ConfigError, SafeCfgNode, get_cfg

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file and gives its path."""

    def write_file(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write_file


def test_base_files_are_overridden_by_nearer_ones(write: Write) -> None:
    write("a.yaml", "SOLVER: {BASE_LR: 0.1, MAX_ITER: 5}\nOUTPUT_DIR: a")
    write("sub/b.yaml", '_BASE_: "../a.yaml"\nSOLVER: {MAX_ITER: 7}')
    path = write("c.yaml", '_BASE_: ["sub/b.yaml"]\nOUTPUT_DIR: c')
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR) == (0.1, 7, "c")
    assert SafeCfgNode.load_yaml_with_base(path) == {"SOLVER": {"BASE_LR": 0.1, "MAX_ITER": 7}, "OUTPUT_DIR": "c"}


def test_values_take_the_type_of_the_default() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "1", "SOLVER.STEPS", "[1, 2]", "OUTPUT_DIR", "2024", "DATASETS.TEST", "('a',)"])
    assert isinstance(cfg.SOLVER.BASE_LR, float)
    assert cfg.SOLVER.STEPS == (1, 2)
    assert cfg.OUTPUT_DIR == "2024"
    assert cfg.DATASETS.TEST == ("a",)


def test_most_of_detectron2s_own_configs_can_be_read() -> None:
    folder = Path(model_zoo.__file__).parent / "configs"
    files = [path for path in sorted(folder.rglob("*.yaml")) if "retinanet" not in path.name.lower()]  # these evaluate Python
    assert len(files) > 50
    for path in files:
        get_cfg().merge_from_file(str(path))


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("SOLVER: {BASE_RL: 0.1}", "SOLVER.BASE_RL", "SOLVER.BASE_LR"),
        ("MODEL: {FCOS: {HEAD: {NUM_CONV: 3}}}", "MODEL.FCOS.HEAD.NUM_CONV", "MODEL.FCOS.HEAD.NUM_CONVS"),
        ("model: {weights: x}", "model.weights", "MODEL.WEIGHTS"),
        ("OUTPUT_DIR: {SUB: x}", "OUTPUT_DIR.SUB", "OUTPUT_DIR"),
    ],
)
def test_a_key_that_does_not_exist(write: Write, text: str, key: str, nearest: str) -> None:
    path = write("wrong.yaml", text)
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_file(path)
    assert str(error.value) == f"{path}: there is no config key '{key}'. The nearest that exists is '{nearest}'."


def test_the_file_that_sets_the_wrong_key_is_named(write: Write) -> None:
    base = write("base.yaml", "SOLVER: {NO_SUCH: 1}")
    path = write("child.yaml", '_BASE_: "base.yaml"\nSOLVER: {MAX_ITER: 3}')
    with pytest.raises(ConfigError, match="NO_SUCH") as error:
        get_cfg().merge_from_file(path)
    assert str(error.value).startswith(base)


def test_all_mistakes_at_once_and_nothing_merged(write: Write) -> None:
    path = write("wrong.yaml", "SOLVER: {MAX_ITER: many, BASE_RL: 1, CHECKPOINT_PERIOD: 3}\nMODEL: 5")
    cfg = get_cfg()
    with pytest.raises(ConfigError) as error:
        cfg.merge_from_file(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "'SOLVER.MAX_ITER' takes a value like 40000 (int), not 'many' (str)" in lines[0]
    assert "'MODEL' is a section" in lines[2]
    assert cfg == get_cfg()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BASE_RL", "1"], "overrides: there is no config key 'SOLVER.BASE_RL'. The nearest that exists is 'SOLVER.BASE_LR'."),
        (["SOLVER.MAX_ITER"], "overrides: 1 words cannot be pairs"),
        (["SOLVER.MAX_ITER", "1.5"], "'SOLVER.MAX_ITER' takes a value like 40000 (int), not 1.5 (float)"),
        (["MODEL.FCOS.PLUS_ONE", "1"], "'MODEL.FCOS.PLUS_ONE' takes a value like False (bool), not 1 (int)"),
        (["_BASE_", "x.yaml"], "no config key '_BASE_'"),
    ],
)
def test_wrong_overrides(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_list(overrides)
    assert message in str(error.value)


def test_paths_may_be_path_objects(write: Write, tmp_path: Path) -> None:
    path = Path(write("a.yaml", "SOLVER: {MAX_ITER: 7}"))
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["OUTPUT_DIR", tmp_path])
    assert (cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR) == (7, str(tmp_path))
    assert SafeCfgNode.load_yaml_with_base(path) == {"SOLVER": {"MAX_ITER": 7}}


def test_missing_files(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config file '.*nowhere.yaml' does not exist"):
        get_cfg().merge_from_file(str(tmp_path / "nowhere.yaml"))
    path = write("child.yaml", '_BASE_: "nowhere.yaml"')
    with pytest.raises(ConfigError, match=r"nowhere.yaml' \(named as _BASE_ in .*child.yaml\) does not exist"):
        get_cfg().merge_from_file(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        get_cfg().merge_from_file(str(tmp_path))


def test_base_files_in_a_circle(write: Write) -> None:
    write("a.yaml", '_BASE_: "b.yaml"')
    path = write("b.yaml", '_BASE_: "./a.yaml"')
    with pytest.raises(ConfigError, match=r"circular: .*b.yaml -> .*a.yaml -> .*b.yaml"):
        get_cfg().merge_from_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  MAX_ITER: [1, 2\n", "line 3"),
        ("SOLVER:\n  MAX_ITER: 1\n  MAX_ITER: 2\n", "line 3: not a plain yaml config: the key 'MAX_ITER' stands twice"),
        ("- a\n- b\n", "a yaml mapping of keys to values, this is a list"),
        ("1: x\n", "1 is no config key"),
        ("OUTPUT_DIR: 2024-01-01\n", "cannot take the date"),
        ("_BASE_: 5\n", "_BASE_ takes a file name or a list of them"),
        ("VERSION: 1\n", "VERSION 1"),
    ],
)
def test_files_that_are_no_config(write: Write, text: str, message: str) -> None:
    path = write("wrong.yaml", text)
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_file(path)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


def test_an_empty_file_changes_nothing(write: Write) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(write("empty.yaml", ""))
    assert cfg == get_cfg()


@pytest.mark.parametrize("in_base", [False, True])
def test_no_file_runs_code(write: Write, tmp_path: Path, in_base: bool) -> None:
    trace = tmp_path / "trace"
    hostile = write("hostile.yaml", f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{trace}"]')
    path = write("child.yaml", '_BASE_: "hostile.yaml"') if in_base else hostile
    with pytest.raises(ConfigError, match="run code"):
        get_cfg().merge_from_file(path, allow_unsafe=True)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["retinanet_R_50_FPN_1x", "retinanet_R_101_FPN_3x"])
def test_retinanet_of_detectron2_is_read_as_it_is_meant(name: str) -> None:
    path = model_zoo.get_config_file(f"COCO-Detection/{name}.yaml")
    ours, theirs = get_cfg(), detectron2_cfg()
    ours.merge_from_file(path)
    theirs.merge_from_file(path, allow_unsafe=True)
    assert ours.MODEL.ANCHOR_GENERATOR == theirs.MODEL.ANCHOR_GENERATOR and ours.MODEL.RETINANET == theirs.MODEL.RETINANET


@pytest.mark.parametrize("expression", ["[1, 2]", "__import__('os').getpid()", "[[x,x*2**(1.0/3),x*2**(2.0/3)]forxin[32,64,128,256,1024]]"])
def test_other_expressions_are_refused(write: Write, expression: str) -> None:
    with pytest.raises(ConfigError, match="run code"):
        get_cfg().merge_from_file(write("expression.yaml", f'MODEL: {{PIXEL_MEAN: !!python/object/apply:eval ["{expression}"]}}'))


def test_aliases_repeat_a_value(write: Write) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(write("alias.yaml", "INPUT: {MIN_SIZE_TRAIN: &sizes [3, 4]}\nSOLVER: {STEPS: *sizes}"))
    assert cfg.SOLVER.STEPS == (3, 4)
    with pytest.raises(ConfigError, match="stands within what it repeats"):
        get_cfg().merge_from_file(write("self.yaml", "a: &a [*a]"))


def test_new_keys_where_they_are_allowed(write: Write) -> None:
    cfg = get_cfg()
    cfg.MINE = CfgNode({"A": 1}, new_allowed=True)
    cfg.merge_from_file(write("new.yaml", "MINE: {A: 2, B: [1]}"))
    assert cfg.MINE.A == 2
    assert cfg.MINE.B == [1]


def test_of_several_bases_the_later_one_wins(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("SEED: 1\nSOLVER: {BASE_LR: 0.1, MAX_ITER: 7}\n")
    (tmp_path / "second.yaml").write_text("SEED: 2\nSOLVER: {BASE_LR: 0.2}\n")
    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: [first.yaml, second.yaml]\nSOLVER: {STEPS: [3]}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(own))
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (2, 0.2, 7, (3,))
