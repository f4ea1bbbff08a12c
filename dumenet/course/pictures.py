"""From features back to pictures: what a reconstruction looks like, for readers and not for scores.

A decoder trained on normal images as they are draws *every* input as normal, the features of a defect too: it
has learned the normal picture, not to draw. Then nothing could be concluded from its pictures. So half of its
training images are normal images with pieces of other normal images pasted in, in other colours: it must draw
what the features say, wherever they say it. It never sees a defect. Whoever shows its picture of a reconstruction
shows its picture of the original features beside it: that control must show the defect.

(The paper page's tree has a folder `json_vis_decoder` for such a decoder; the page says no more of it.)
"""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor, nn

from dumenet.checkpoint import pick_device, write_tensors
from dumenet.config import Config, to_dict
from dumenet.data import Sample, fingerprint, load_image
from dumenet.errors import DumenetError
from dumenet.features import Backbone, Features, extract, load_tensors, progress_bar
from dumenet.models.layers import Standardise
from dumenet.run import Folders, load_data
from dumenet.train import pick_precision

SIZE = 112  # pixels of a decoded picture
PASTES, ALTERED = 6, 200  # pieces pasted into an image; most altered images to compute features of


class PictureDecoder(nn.Module):
    """Features (B, C, H, W) as the backbone gives them, to RGB pictures (B, 3, 8 H, 8 W), about 0 to 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.standardise = Standardise(channels)
        layers = [nn.Conv2d(channels, 128, 3, padding=1), nn.GELU()]
        for before, after in ((128, 64), (64, 32)):
            layers += [nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2)]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.GELU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 3, 8 H, 8 W)."""
        return self.net(self.standardise(features)) + 0.5

    @torch.no_grad()
    def draw(self, features: Tensor) -> np.ndarray:
        """Features (B, C, H, W) in the units of `backbone_features` to pictures (B, 8 H, 8 W, 3) in 0..1."""
        device = self.standardise.mean.device
        return self(features.to(device)).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def backbone_features(model: nn.Module, features: Tensor) -> Tensor:
    """`Reconstruction.features` or `.target` of `model`, (B, C, H, W), in the backbone's own units again.

    Raises:
        DumenetError: a model whose target cannot be turned back (sigmoid, or behind a trainable neck).
    """
    if model.config.target == "sigmoid" or model.config.neck == "cbam":
        raise DumenetError(
            "Reconstructions behind a sigmoid or a trainable neck cannot be drawn: use target standardised or raw."
        )
    return features * model.standardise.std + model.standardise.mean


def picture_decoder(
    config: Config, folders: Folders = Folders(), epochs: int = 12, progress: bool = True
) -> PictureDecoder:
    """The decoder for the data set and backbone of `config`, trained on its normal training images or read again.

    Args:
        epochs: passes over the normal images and as many altered ones (`ALTERED` at most). 12 take half a minute on
            two cores for 300 images.

    Raises:
        DumenetError: as `dumenet.run.run`; and a backbone grid other than `SIZE` / 8.
    """
    if config.features.grid * 8 != SIZE:
        raise DumenetError(f"Pictures need features.grid {SIZE // 8}, not {config.features.grid}.")
    dataset = load_data(config, folders)
    device = pick_device(config.train.device)
    backbone = Backbone(config.features).to(device)
    torch.manual_seed(config.train.seed)
    decoder = PictureDecoder(sum(backbone.stage_channels))
    what = [fingerprint(dataset), to_dict(config)["data"], backbone.key, epochs, config.train.seed, PASTES, ALTERED]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    path = folders.runs / f"{dataset.name}-pictures-{digest}" / "decoder.pt"
    if path.exists():
        decoder.load_state_dict(load_tensors(path))
    else:
        normal = [s for s in dataset.train if not s.label]  # a contaminated training set holds others
        samples = normal + altered(normal, config.features.image_size, config.train.seed)
        features = extract(samples, backbone, folders.cache, progress)
        _train(decoder.to(device), features, epochs, progress)
        write_tensors(path, decoder.cpu().state_dict())
    return decoder.to(device).eval()


def altered(samples: list[Sample], size: int, seed: int) -> list[Sample]:
    """At most `ALTERED` of the images, each with `PASTES` rectangles of others at other places and in other colours."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(samples))[:ALTERED]
    images = [load_image(samples[i], size) for i in chosen]  # (S, S, 3) uint8
    made = []
    for i, image in zip(chosen, images):
        image = image.copy()
        for _ in range(PASTES):
            height, width = rng.integers(size // 16, size // 3, 2)
            rows, columns = rng.integers(0, size - height, 2), rng.integers(0, size - width, 2)  # from, to
            other = images[rng.integers(len(images))]
            piece = other[rows[0] : rows[0] + height, columns[0] : columns[0] + width].astype(float)
            piece = (piece - 128) * rng.uniform(0, 1.5) + 128 + rng.normal(0, 40, 3)
            image[rows[1] : rows[1] + height, columns[1] : columns[1] + width] = piece.clip(0, 255).astype(np.uint8)
        made.append(Sample(f"{samples[i].name} altered", samples[i].category, "good", image))
    return made


def picture_difference(a: np.ndarray, b: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference of pictures (n, S, S, 3) within 0..1, inside and outside masks (n, S, S)."""
    gap = np.abs(a - b).mean(-1)
    return gap[masks].mean(), gap[~masks].mean()


def _train(decoder: PictureDecoder, features: Features, epochs: int, progress: bool) -> None:
    """Absolute error, AdamW, one cycle; no scores depend on it, so it has no options."""
    device, batch = decoder.standardise.mean.device, 8
    bf16 = pick_precision("auto", device) == "bf16"  # it and channels last halve the time on a CPU that is fast at it
    decoder.to(memory_format=torch.channels_last)
    pictures = np.stack([load_image(s, SIZE) for s in features.samples])  # (n, SIZE, SIZE, 3)
    pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    decoder.standardise.fit(*features.channel_statistics())
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    steps = -(-len(features) // batch) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, max(steps, 2), pct_start=0.1)
    for _ in progress_bar(range(epochs), "picture decoder", epochs, show=progress, unit="epoch"):
        for index in torch.randperm(len(features)).split(batch):
            target = pictures[index].to(device).float() / 255
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                drawn = decoder(features.batch(index).to(device, memory_format=torch.channels_last))
            loss = (drawn.float() - target).abs().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    decoder.to(memory_format=torch.contiguous_format)
