import pytest
import torch

from detector.errors import ConfigError
from detector.targets.priors.anchors import AnchorGenerator

CPU = torch.device("cpu")


def test_base_anchors_written_out():
    got = AnchorGenerator(strides=[16], ratios=[0.5, 1.0, 2.0], scales=[1.0]).base_anchors[0]
    wanted = torch.tensor(
        [[-11.3137, -5.6569, 11.3137, 5.6569], [-8.0, -8.0, 8.0, 8.0], [-5.6569, -11.3137, 5.6569, 11.3137]]
    )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_grid_runs_row_by_row():
    generator = AnchorGenerator(strides=[(4, 8)], ratios=[1.0], scales=[2.0])
    centres = generator.grid_priors([(2, 3)], CPU)[0].reshape(-1, 2, 2).mean(dim=1)
    assert centres.tolist() == [[0, 0], [4, 0], [8, 0], [0, 8], [4, 8], [8, 8]]


def test_octaves():
    generator = AnchorGenerator(strides=[8], ratios=[1.0], octave_base_scale=4, scales_per_octave=3)
    torch.testing.assert_close(generator.scales, torch.tensor([4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)]))


def test_scales_and_octaves_together_are_refused():
    with pytest.raises(ConfigError, match="exactly one"):
        AnchorGenerator(strides=[8], ratios=[1.0], scales=[1.0], octave_base_scale=4, scales_per_octave=3)


def test_valid_flags_end_at_the_image_padding():
    generator = AnchorGenerator(strides=[4], ratios=[1.0, 2.0], scales=[1.0])
    flags = generator.valid_flags([(3, 4)], (5, 9), CPU)[0].reshape(3, 4, 2)
    assert flags[:2, :3].all()
    assert flags.sum() == 2 * 3 * 2


def test_anchors_are_cached():
    generator = AnchorGenerator(strides=[4], ratios=[1.0], scales=[1.0])
    assert generator.grid_priors([(3, 4)], CPU)[0] is generator.grid_priors([(3, 4)], CPU)[0]
