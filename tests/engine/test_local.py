"""Which engine there is, and what is said where it is not the network."""

import dataclasses
from contextlib import AsyncExitStack
from pathlib import Path

import networks
import pytest
from engine_kit import captured
from fakes.clock import HeldClock

from daemon.config_model import Config, ServerConfig
from daemon.demo import _engine
from daemon.engine.model import Model
from daemon.local import Lack, Wish, choose, network
from daemon.rules.faults import Fault
from daemon.server import LanczosUpscaler, RealEsrganUpscaler

HERE = Path(__file__).parent


def yes() -> bool:
    return True


def no() -> bool:
    return False


async def chosen(tmp_path, has_ncnn=yes, **wish):
    log, capture = captured()
    async with AsyncExitStack() as stack:
        wanted = Wish(**{"model": "made", **wish})
        engine = choose(wanted, [tmp_path / "models"], tmp_path, HeldClock(), log, stack, has_ncnn=has_ncnn)
    return engine, capture.entries


def install(tmp_path) -> None:
    networks.write(tmp_path / "models", "made", networks.nearest(4))


@pytest.mark.parametrize("engine", ["auto", "real-esrgan"])
async def test_the_network_where_it_can_be_had(tmp_path, engine):
    install(tmp_path)
    made, told = await chosen(tmp_path, engine=engine)
    assert isinstance(made.upscaler, RealEsrganUpscaler)
    assert (made.why, made.said) == ("", "Real-ESRGAN (made) on this machine")
    assert [(each["event"], each["engine"]) for each in told] == [("engine", made.upscaler.name)]


async def test_without_it_auto_resamples_and_says_so(tmp_path):
    made, told = await chosen(tmp_path)
    assert isinstance(made.upscaler, LanczosUpscaler)
    assert made.why == f"the model made is not installed. Get it: esrgand models add FILE --dir {tmp_path}"
    assert made.why in made.said
    assert told[0]["why"] == made.why
    install(tmp_path)
    made, _ = await chosen(tmp_path, has_ncnn=no)
    assert "pip install 'esrgand[local]'" in made.why
    (tmp_path / "models" / "made.param").write_text("rubbish")
    made, _ = await chosen(tmp_path)
    assert isinstance(made.upscaler, LanczosUpscaler)
    assert "made" in made.why
    assert made.warning.endswith("Look at `esrgand models`.")


async def test_without_it_real_esrgan_is_a_fault_with_a_remedy(tmp_path):
    with pytest.raises(Fault, match="not installed") as caught:
        await chosen(tmp_path, engine="real-esrgan")
    assert caught.value.remedy == f"Get it: esrgand models add FILE --dir {tmp_path}"
    with pytest.raises(Fault, match="ncnn is not installed") as caught:
        await chosen(tmp_path, engine="real-esrgan", has_ncnn=no)
    assert "pip install" in caught.value.remedy


async def test_lanczos_is_a_choice_and_needs_no_excuse(tmp_path):
    install(tmp_path)
    made, told = await chosen(tmp_path, engine="lanczos", has_ncnn=no)
    assert isinstance(made.upscaler, LanczosUpscaler)
    assert made.why == ""
    assert "why" not in told[0]


def test_the_demo_says_what_is_missing_only_to_those_who_want_it(tmp_path):
    for engine, missing in [("auto", True), ("lanczos", False)]:
        config = Config(state_dir=tmp_path, server=ServerConfig(engine=engine))
        assert ("Get it: " in _engine(config)) == missing


def test_the_wish_is_what_the_configuration_has():
    assert Wish(**ServerConfig().model_dump()) == Wish()
    assert {field.name for field in dataclasses.fields(Wish)} == set(ServerConfig.model_fields)


def test_the_first_folder_with_the_model_has_it(tmp_path):
    install(tmp_path)
    found = network(Wish(model="made"), [tmp_path / "nothing", tmp_path / "models"], yes)
    assert isinstance(found, Model)
    assert isinstance(network(Wish(model="made"), [tmp_path / "nothing"], yes), Lack)


async def test_what_can_be_pulled_is_to_be_pulled(tmp_path):
    made, _ = await chosen(tmp_path, model="RealESRGAN_x4plus")
    assert made.why.endswith(f"Get it: esrgand models pull RealESRGAN_x4plus --dir {tmp_path}")
