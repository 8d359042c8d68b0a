"""The process of a peer: `python benchmarks/peer.py FOLDER`, with the peers' packages on its path.

FOLDER holds pictures.safetensors and job.json:

    peer        "denoising" (denoising-diffusion-pytorch) or "smalldiffusion"
    network     {"parameters": N}: its own U-Net, in the width that comes closest to N parameters;
                {"config": {...}, "weights": FILE}: this UNet2DModel; {}: its own U-Net as it comes
    batch       pictures a step; without it, what the peer (or its example for such pictures) takes
    threads     of PyTorch
    bf16        whether samples are drawn in bfloat16

Then it reads orders, a JSON object a line, and answers each with one:

    {"train": 3}                   three steps
    {"train_until": 120}           steps until its training has cost 120 CPU seconds in all
    {"sample": 64}                 writes samples.safetensors, float in [-1, 1], with its own sampler
    {"flops": 4}                   of forward and backward pass for four pictures
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what measures, the same for all

from benchmarks.measure import CpuClock, flops, write_pictures


def load_torchvision():
    """Both peers import it for its transforms; its compiled part doesn't fit a PyTorch without CUDA."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operators of the compiled part are missing; nobody here calls them
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float share) -> Tensor"
            )
        import torchvision  # noqa: F401


def closest(candidates, parameters: int) -> nn.Module:
    """Of the networks that the candidates (functions) make, the one nearest to so many parameters."""

    def distance(make):
        with torch.device("meta"):  # counted without being made
            return abs(count(make()) - parameters)

    return min(candidates, key=distance)()


def count(network: nn.Module) -> int:
    """How many parameters it has."""
    return sum(p.numel() for p in network.parameters())


def given(network: dict) -> nn.Module:
    """The UNet2DModel of the job, with the weights that all contestants start from."""
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_config(network["config"])
    unet.load_state_dict(load_file(network["weights"]))
    return unet


class Denoising:
    """denoising-diffusion-pytorch: `Trainer` on a folder of pictures, with its own settings but these:

    the Fréchet distance with Inception's features (a download) and the samples on the way are left out, which
    saves it time, and samples take 50 steps of its DDIM instead of its 1,000 of DDPM.
    """

    def __init__(self, job, images, folder):
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer

        batch = {"train_batch_size": job["batch"]} if "batch" in job else {}
        self.network, self.images = self._network(job["network"]), images
        self.trainer = Trainer(
            GaussianDiffusion(self.network, image_size=images.shape[-1], sampling_timesteps=50),
            write_pictures(images, folder / "pictures"),
            calculate_fid=False,
            save_and_sample_every=10**9,
            results_folder=folder / "results",
            **batch,
        )

    def _network(self, network):
        from denoising_diffusion_pytorch import Unet

        def own(dim=64):  # as in its README
            return Unet(dim=dim, dim_mults=(1, 2, 4, 8), flash_attn=True)

        if "config" in network:
            return InDenoising(given(network))
        if "parameters" in network:
            candidates = [lambda dim=dim: own(dim) for dim in range(8, 132, 2)]
            return closest(candidates, network["parameters"])
        return own()

    def train(self, steps):
        self.trainer.train_num_steps = self.trainer.step + steps
        self.trainer.train()

    def sample(self, pictures):
        return self.trainer.ema.ema_model.sample(batch_size=pictures) * 2 - 1

    def forward_and_backward(self, pictures):
        self.trainer.model(self.images[:pictures].float() / 255).backward()
        self.trainer.opt.zero_grad()


class InDenoising(nn.Module):
    """A UNet2DModel, as denoising-diffusion-pytorch calls its own network."""

    channels = out_dim = 3
    self_condition = False

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, t, x_self_cond=None):
        return self.unet(x, t).sample


class SmallDiffusion:
    """smalldiffusion: `training_loop` and `samples` as in its example for 32 x 32 pictures (CIFAR-10).

    Its batch of 256 is cut to 64: of the larger ones, 8 minutes would see a handful.
    """

    def __init__(self, job, images, folder):
        from PIL import Image
        from smalldiffusion import MappedDataset, ScheduleSigmoid, img_train_transform, training_loop
        from torch_ema import ExponentialMovingAverage

        pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
        loader = torch.utils.data.DataLoader(
            MappedDataset(pictures, img_train_transform), job.get("batch", 64), shuffle=True, drop_last=True
        )
        self.network, self.images = self._network(job["network"], images.shape[-1]), images
        self.schedule = ScheduleSigmoid(N=1000)
        self.ema = ExponentialMovingAverage(self.network.parameters(), decay=0.9999)
        self.steps = training_loop(loader, self.network, self.schedule, lr=2e-4)

    def _network(self, network, side):
        from smalldiffusion import Scaled, Unet

        def own(ch=128, ch_mult=(1, 2, 2, 2), blocks=2):
            settings = {"ch": ch, "ch_mult": ch_mult, "num_res_blocks": blocks, "attn_resolutions": (16,)}
            return Scaled(Unet)(side, 3, 3, **settings)

        if "config" in network:
            return in_smalldiffusion(given(network), side)
        if "parameters" in network:  # its groups of 32 channels leave few widths: so depth varies, too
            depths = ((1, 2, 2, 2), (1, 2, 2), (1, 1, 2, 2))
            widths = range(32, 160, 32)
            candidates = [lambda c=c, m=m, b=b: own(c, m, b) for c in widths for m in depths for b in (1, 2)]
            return closest(candidates, network["parameters"])
        return own()

    def train(self, steps):
        for _ in range(steps):
            next(self.steps)  # the second half of the step before, and the first of this one
            self.ema.update()

    def sample(self, pictures):
        from smalldiffusion import ScheduleLogLinear, samples

        sigmas = ScheduleLogLinear(sigma_min=0.01, sigma_max=35, N=1000).sample_sigmas(10)
        with self.ema.average_parameters():
            return list(samples(self.network, sigmas, gam=2.1, batchsize=pictures))[-1]

    def forward_and_backward(self, pictures):
        from smalldiffusion import generate_train_sample

        x0 = self.images[:pictures].float() / 127.5 - 1
        x0, sigma, eps, _ = generate_train_sample(x0, self.schedule)
        self.network.get_loss(x0, sigma, eps).backward()
        self.network.zero_grad()


def in_smalldiffusion(unet, side):
    """A UNet2DModel, as smalldiffusion calls its own network: with sigma in place of t."""
    from smalldiffusion import ModelMixin, Scaled

    class Network(nn.Module, ModelMixin):
        input_dims = (3, side, side)

        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, x, sigma, cond=None):
            return self.unet(x, (sigma.log().flatten() * 100).expand(len(x))).sample

    return Scaled(Network)()


PEERS = {"denoising": Denoising, "smalldiffusion": SmallDiffusion}


class Orders:
    """What the process does when it is told to."""

    def __init__(self, peer, folder, bf16):
        self.peer, self.folder, self.bf16 = peer, folder, bf16
        self.spent = 0.0  # CPU seconds of training

    def train(self, steps):
        clock = CpuClock(children=True)  # the loaders of its data
        self.peer.train(steps)
        self.spent += clock()
        return {"cpu_seconds": self.spent}

    def train_until(self, seconds):
        steps = 0
        while self.spent < seconds:
            self.train(1)
            steps += 1
        return {"cpu_seconds": self.spent, "steps": steps}

    def sample(self, pictures):
        parts = [min(64, pictures - done) for done in range(0, pictures, 64)]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            samples = torch.cat([self.peer.sample(part).float() for part in parts])
        save_file({"samples": samples.contiguous()}, self.folder / "samples.safetensors")
        return {"samples": len(samples)}

    def flops(self, pictures):
        return {"flops": flops(lambda: self.peer.forward_and_backward(pictures))}


def main(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print goes into the log
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    load_torchvision()
    peer = PEERS[job["peer"]](job, load_file(folder / "pictures.safetensors")["images"], folder)
    orders = Orders(peer, folder, job.get("bf16", False))
    print(json.dumps({"parameters": count(peer.network)}), file=answers, flush=True)
    for line in sys.stdin:
        ((name, value),) = json.loads(line).items()
        print(json.dumps(getattr(orders, name)(value)), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
