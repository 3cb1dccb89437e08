"""Networks of one tensor in and one out, as MONAI's bundles describe them."""

import pytest
import torch

from medtrace.networks import DiffeomorphicVoxelMorph, TraceTrans
from medtrace.networks.output_field import OutputField
from medtrace.networks.stacked_pair import StackedPair


def test_output_field_names_the_fields_there_are():
    network = TraceTrans(2, 1, 1, (4, 8)).eval()
    source = torch.rand(1, 1, 16, 16)
    assert torch.equal(OutputField(network, "warped")(source), network(source).warped)
    with pytest.raises(ValueError, match=r"expected one of \['image', 'warped', 'ddf', 'velocity'\], received 'flow'"):
        OutputField(network, "flow")(source)


def test_stacked_pair_is_source_and_target():
    network = DiffeomorphicVoxelMorph(2, 1, (4, 4, 4, 4), (4,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    source, target = torch.rand(2, 1, 1, 16, 16)
    stacked = StackedPair(network)(torch.cat([source, target], dim=1))
    assert torch.equal(stacked, network(source, target).warped)
    assert not torch.equal(stacked, network(target, source).warped)
    with pytest.raises(ValueError, match="even number of channels"):
        StackedPair(network)(torch.rand(1, 3, 16, 16))
