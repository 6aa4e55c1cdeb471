"""Machines are known by the names that clouds give them."""

import pytest

from tasks.errors import UnknownInstanceType
from tasks.skus import catalogue, find_sku


def test_a_machine_is_found_however_its_name_is_cased() -> None:
    sku = find_sku("standard_nc48ADS_a100_v4")
    assert (sku.gpu, sku.gpus, sku.total_gpu_memory_gib) == ("A100", 2, 160)


@pytest.mark.parametrize("name", ["Standard_NC6s_v3", "Standard_NC4as_T4_v3", "g4dn.xlarge"])
def test_older_gpus_are_known_to_have_no_bfloat16(name: str) -> None:
    assert find_sku(name).has_cuda
    assert not find_sku(name).has_bf16


@pytest.mark.parametrize("name", ["Standard_NC24ads_A100_v4", "g6.xlarge", "p5.48xlarge"])
def test_newer_gpus_have_bfloat16(name: str) -> None:
    assert find_sku(name).has_bf16


@pytest.mark.parametrize("name", ["Standard_NG32ads_V620_v1", "trn1.2xlarge", "inf2.xlarge"])
def test_machines_of_other_makers_are_known_and_have_no_cuda(name: str) -> None:
    assert not find_sku(name).has_cuda


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownInstanceType, match="did you mean Standard_NC24ads_A100_v4"):
        find_sku("Standard_NC24ads_A10_v4")


def test_azure_s_machines_have_a_quota_family() -> None:
    azure = [sku for sku in catalogue().values() if sku.cloud == "azure"]
    assert all(sku.family for sku in azure)
    assert len(azure) > 20
