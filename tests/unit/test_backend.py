"""The bus is picked by the scheme of SOBRANIE_BUS; what a setting may name can be opened."""

from dataclasses import replace

import pytest

from app.backend import open_bus
from app.model.errors import SettingsError
from app.model.settings import BUSES, Settings
from app.postgres.bus import PostgresBus

SETTINGS = Settings(database_url="postgresql://nobody@127.0.0.1:1/none")


def test_a_bus_is_picked_by_its_scheme() -> None:
    assert isinstance(open_bus(replace(SETTINGS, bus="postgres:"), print), PostgresBus)


@pytest.mark.parametrize("scheme", BUSES)
def test_every_bus_that_a_setting_may_name_can_be_opened(scheme: str) -> None:
    assert not open_bus(replace(SETTINGS, bus=f"{scheme}:"), print).ready


def test_an_unknown_bus_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="SOBRANIE_BUS: there is no bus pigeon: in this version"):
        open_bus(replace(SETTINGS, bus="pigeon://roof"), print)
