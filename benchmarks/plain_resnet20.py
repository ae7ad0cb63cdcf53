"""ResNet-20 on CIFAR-10 in a plain PyTorch loop that imports nothing from ersparse: an independent reference.

    python benchmarks/plain_resnet20.py DATA [--epochs 16] [--seed 0]

The hyperparameters are those of `python launch.py model=resnet20 dataset=cifar10 sparsity=dense trainer.max_epochs=16`:
SGD with learning rate 0.1, momentum 0.9, weight decay 5e-4, and batch size 128; the learning rate is multiplied by 0.1
at 1/2 and 3/4 of training; images are padded by 4 zeros, cropped and flipped. Network, augmentation (torchvision's,
per image) and training loop are written independently, so that equal accuracy validates both implementations. DATA is
the folder of cifar10.npz.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Images(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.transform(self.x[i]), int(self.y[i])


class Block(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.a = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.a_norm = nn.BatchNorm2d(n_out)
        self.b = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.b_norm = nn.BatchNorm2d(n_out)
        self.skip = None
        if n_in != n_out:
            self.skip = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x):
        y = self.b_norm(self.b(F.relu(self.a_norm(self.a(x)))))
        return F.relu(y + (x if self.skip is None else self.skip(x)))


def resnet20():
    body = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for n_in, n_out in [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)] + [(64, 64)] * 2:
        body.append(Block(n_in, n_out, 1 if n_in == n_out else 2))
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network.to(memory_format=torch.channels_last)


def accuracy(network, loader, precision):
    """Return the fraction of images that the network classifies correctly."""
    network.eval()
    correct = total = 0
    with torch.no_grad(), precision:
        for x, y in loader:
            correct += (network(x.to(memory_format=torch.channels_last)).argmax(1) == y).sum().item()
            total += len(y)
    return correct / total


def load(folder):
    """Return the loaders of training images, with augmentation, and of test images."""
    arrays = np.load(folder / "cifar10.npz")
    plain = [transforms.ToTensor(), transforms.Normalize(*STATISTICS)]
    augmentation = [transforms.ToPILImage(), transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()]
    train = Images(arrays["x_train"], arrays["y_train"], transforms.Compose(augmentation + plain))
    test = Images(arrays["x_test"], arrays["y_test"], transforms.Compose(plain))
    return DataLoader(train, 128, shuffle=True), DataLoader(test, 500)


def train_epoch(network, loader, optimizer, precision):
    network.train()
    for x, y in loader:
        with precision:
            loss = F.cross_entropy(network(x.to(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16 autocast")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    train_loader, test_loader = load(arguments.data)
    network = resnet20()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [arguments.epochs // 2, arguments.epochs * 3 // 4])
    precision = torch.autocast("cpu", torch.bfloat16, enabled=not arguments.float32)
    start = time.perf_counter()
    for epoch in range(arguments.epochs):
        train_epoch(network, train_loader, optimizer, precision)
        schedule.step()
        test_accuracy = accuracy(network, test_loader, precision)
        print(f"epoch {epoch + 1}: test/acc {test_accuracy:.4f}, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
