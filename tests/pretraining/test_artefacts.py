"""Blur, low resolution and Gibbs ringing by matrices, against closed forms and MONAI sample by sample."""

import pytest
import torch
from monai.transforms import GaussianSmooth, GibbsNoise, RandSimulateLowResolution

from neurorad.pretraining.artefacts import along_axes, blur_matrix, gibbs_matrix, low_resolution_matrix


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [15, 16])
def test_nothing_asked_is_the_identity(size):
    for matrix in (blur_matrix, gibbs_matrix):
        torch.testing.assert_close(matrix(size, torch.zeros(1, 1))[0, 0], torch.eye(size), atol=1e-6, rtol=0)
    assert torch.equal(low_resolution_matrix(size, torch.ones(1, 1))[0, 0], torch.eye(size))


def test_constants_stay_constant():
    matrices = (
        blur_matrix(15, torch.tensor([[1.5]])),
        gibbs_matrix(15, torch.tensor([[0.4]])),
        low_resolution_matrix(15, torch.tensor([[1.7]])),
    )
    for matrix in matrices:
        torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(1, 1, 15))


def test_each_axis_sees_the_matrix_once():
    volumes, matrix = draw(2, 3, 5, 5, 5), draw(2, 3, 5, 5)
    expected = torch.einsum("bcxyz,bcix,bcjy,bckz->bcijk", volumes, matrix, matrix, matrix)
    torch.testing.assert_close(along_axes(volumes, matrix), expected, atol=1e-4, rtol=1e-4)


def test_blur_is_monais_away_from_the_edge_and_each_sequence_has_its_own():
    volumes, sigma = draw(1, 2, 24, 24, 24), torch.tensor([[0.7, 1.4]])
    ours = along_axes(volumes, blur_matrix(24, sigma))
    for sequence in range(2):
        smooth = GaussianSmooth(float(sigma[0, sequence]), approx="sampled")
        theirs = torch.as_tensor(smooth(volumes[0, sequence : sequence + 1]))[0]
        inner = (slice(8, 16),) * 3
        torch.testing.assert_close(ours[0, sequence][inner], theirs[inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [1.2, 1.6, 2.0])
def test_low_resolution_is_monais(factor):
    volumes = draw(2, 2, 20, 20, 20)
    ours = along_axes(volumes, low_resolution_matrix(20, torch.full((2, 2), factor)))
    theirs = RandSimulateLowResolution(prob=1.0, zoom_range=(1 / factor, 1 / factor))
    for sample in range(2):
        torch.testing.assert_close(ours[sample], torch.as_tensor(theirs(volumes[sample])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [24, 25])
def test_gibbs_cuts_the_box_of_low_frequencies_out_of_k_space(size):
    volumes, cut = draw(1, 1, size, size, size), 0.4
    ours = along_axes(volumes, gibbs_matrix(size, torch.full((1, 1), cut)))
    kept = (torch.fft.fftfreq(size).abs() * 2 <= 1 - cut).float()
    box = kept[:, None, None] * kept[None, :, None] * kept[None, None, :]
    expected = torch.fft.ifftn(torch.fft.fftn(volumes, dim=(2, 3, 4)) * box, dim=(2, 3, 4))
    torch.testing.assert_close(ours, expected.real, atol=1e-4, rtol=0)


def test_gibbs_is_monais_for_an_edge_across_one_axis():
    """MONAI cuts a sphere; along one axis sphere and box are the same."""
    edge = (torch.arange(25.0) >= 9).float()[:, None, None].expand(25, 25, 25).contiguous()
    alpha = 0.55
    ours = along_axes(edge[None, None], gibbs_matrix(25, torch.full((1, 1), 1 - (1 - alpha) * 2**0.5)))[0, 0]
    theirs = torch.as_tensor(GibbsNoise(alpha)(edge[None]))[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert float(ours.max()) > 1.05
