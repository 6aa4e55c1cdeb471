"""Machines are known by the names that clouds give them."""

import re

import pytest

from tasks.contract.errors import UnknownInstanceType
from tasks.skus import catalogue, find_sku


def test_a_machine_is_found_however_its_name_is_cased() -> None:
    sku = find_sku("standard_nc48ADS_a100_v4")
    assert (sku.gpu, sku.gpus, sku.usable_gpu_memory_gib) == ("A100", 2, 158.4)


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


def test_the_oldest_gpu_that_images_run_on_is_the_one_that_torch_has_kernels_for() -> None:
    """A torch that knows older GPUs, or no longer knows these, changes the catalogue's word."""
    import torch

    flags = torch._C._cuda_getArchFlags()
    assert flags
    assert min(int(arch.removeprefix("sm_")) for arch in flags.split()) == 75
    assert find_sku("Standard_NC4as_T4_v3").runs_our_images
    assert not find_sku("Standard_NC6s_v3").runs_our_images


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Standard_NC6s_v3", ["capability 7.0, .* begins at 7.5", "no bfloat16", "retired"]),
        ("Standard_NC4as_T4_v3", ["no bfloat16: .* compute in float16"]),
        ("Standard_NG32ads_V620_v1", ["V620 is not NVIDIA's"]),
        ("inf2.xlarge", ["Inferentia2 is not NVIDIA's"]),
        ("Standard_NC24ads_A100_v4", []),
    ],
)
def test_what_a_machine_cannot_do_is_said(name: str, said: list[str]) -> None:
    limits = find_sku(name).limits
    assert len(limits) == len(said)
    assert all(re.search(pattern, limit) for pattern, limit in zip(said, limits, strict=True))


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(UnknownInstanceType, match="did you mean Standard_NC24ads_A100_v4"):
        find_sku("Standard_NC24ads_A10_v4")


def test_azure_s_machines_have_a_quota_family() -> None:
    azure = [sku for sku in catalogue().values() if sku.cloud == "azure"]
    assert all(sku.family for sku in azure)
    assert len(azure) > 20
