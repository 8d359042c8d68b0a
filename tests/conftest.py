"""What several test modules share."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch: the fastest for tiny tensors, and sums round alike in every process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
