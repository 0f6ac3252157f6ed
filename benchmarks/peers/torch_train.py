"""PyTorch: a plain loop, channels last. `python torch_train.py float32|bfloat16 compile|eager`."""

from __future__ import annotations

import sys

import arrays
import torch
from torch import nn


def network() -> nn.Module:
    """Build our `batch_norm`."""

    def normalised(inputs: int, width: int, *, pool: bool) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        pooling = [nn.MaxPool2d(2)] if pool else []
        return [convolution, *pooling, nn.BatchNorm2d(width), nn.ReLU()]

    return nn.Sequential(
        *normalised(1, 32, pool=True),
        *normalised(32, 64, pool=True),
        *normalised(64, 64, pool=False),
        *normalised(64, 64, pool=False),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, arrays.CLASSES),
    )


def main(precision: str, mode: str) -> None:
    """Train, and print how fast."""
    pixels, classes = (torch.from_numpy(each) for each in arrays.load())
    pixels = pixels.permute(0, 3, 1, 2)  # a view: the memory stays channels last
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=arrays.LEARNING_RATE,
        momentum=arrays.MOMENTUM,
        nesterov=True,
        weight_decay=arrays.WEIGHT_DECAY,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=arrays.LABEL_SMOOTHING)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        flipped = torch.rand(len(images), 1, 1, 1) < 0.5
        images = torch.where(flipped, images.flip(3), images) / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = criterion(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    if mode == "compile":
        model = torch.compile(model)

    def train() -> float:
        order = torch.randperm(len(pixels))[: arrays.STEPS * arrays.BATCH]
        losses = [step(pixels[rows], classes[rows]) for rows in order.view(-1, arrays.BATCH)]
        return float(torch.stack(losses).mean())

    arrays.measure(train)


if __name__ == "__main__":
    main(*sys.argv[1:])
