"""Recipes by name: what papers and their code trained with, as far as it is documented, each with its source.

A recipe holds for all nets of a sweep. Train the net of a paper with the paper's recipe to compare with a published
figure; train all nets with one recipe to compare them with each other. A new recipe is one row.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from zoo.results.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """A recipe and its source.

    Attributes:
        recipe: The numbers.
        images: Images that it is meant for: ``digits``, ``scenes``, ``CIFAR`` or ``ImageNet``.
        source: Paper, section, code.
        notes: Points that the source leaves open or does differently.
    """

    recipe: Recipe
    images: str
    source: str
    notes: str = ""


def _cifar(**fields: object) -> Recipe:
    """Return the papers' common recipe of ResNets at 32 px: batches of 128, pad 4 and crop, mirror; all decays."""
    common = dict(
        batch_size=128,
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=0,
        schedule="steps",
        step_at=(0.5, 0.75),
        decay_all=True,
        max_shift=4,
        flip=True,
        border="mean",
    )
    return Recipe(**{**common, **fields})  # ty: ignore[invalid-argument-type]


def _imagenet(**fields: object) -> Recipe:
    """Return a recipe with batches of 256, crops of 8 to 100 % of the area at 224 px, mirrored; everything decays."""
    common = dict(
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=0,
        schedule="steps",
        decay_all=True,
        flip=True,
        image_size=224,
    )
    return Recipe(**{**common, **fields})  # ty: ignore[invalid-argument-type]


TORCH = "Facebook's fb.resnet.torch (opts.lua, train.lua, TRAINING.md)"
MODERN = "after torchvision's second ImageNet recipe (pytorch/vision issue 3995)"

RECIPES = {
    "digits": RecipeRow(
        recipe=Recipe(epochs=8, batch_size=32, lr=0.1, weight_decay=5e-4, warmup_epochs=1, max_shift=2),
        images="digits",
        source="ours: short enough for two CPU cores; no flip, for a mirrored 2 is not a 2",
    ),
    "fashion": RecipeRow(
        recipe=Recipe(epochs=5, batch_size=128, lr=0.1, weight_decay=5e-4, warmup_epochs=1, max_shift=2, flip=True),
        images="Fashion-MNIST",
        source="ours: short enough for two CPU cores; shifts and flips as in the set's published results",
    ),
    "fashion_erasing": RecipeRow(
        recipe=_cifar(epochs=300, weight_decay=5e-4, border="background", erase=0.5),
        images="Fashion-MNIST",
        source="Zhong et al. 2017, arXiv:1708.04896, with its code (fashionmnist.py): divided by 10 at 150 and 225",
        notes="The code keeps the best epoch on test images; here it is the last. It normalises with MNIST's mean and "
        "deviation, here they are those of the set, and erases up to 0.4 of an image, here torchvision's 0.33.",
    ),
    "fashion_crops": RecipeRow(
        recipe=_cifar(epochs=300, weight_decay=5e-4, border="background"),
        images="Fashion-MNIST",
        source="the same code without erasing",
        notes="See fashion_erasing.",
    ),
    "scenes": RecipeRow(
        recipe=Recipe(epochs=24, batch_size=8, lr=3e-3, weight_decay=0.05, warmup_epochs=1, optimizer="adamw"),
        images="scenes",
        source="ours: decoders around nets that start from nothing hardly learn classes with sgd in so few steps",
    ),
    "fashion_scenes": RecipeRow(
        recipe=Recipe(epochs=12, batch_size=8, lr=3e-3, weight_decay=0.05, warmup_epochs=1, optimizer="adamw"),
        images="fashion_scenes",
        source="ours: that of the digit scenes, with half the epochs and twice the scenes",
    ),
    "resnet_cifar": RecipeRow(
        recipe=_cifar(epochs=164, nesterov=False),
        images="CIFAR",
        source="He et al. 2015, arXiv:1512.03385, section 4.2: 64,000 steps, divided by 10 at 32,000 and 48,000",
        notes="The paper subtracts the mean of each pixel, here it is that of each channel; it trains on 45,000 images "
        "where it chooses, on 50,000 for the table.",
    ),
    "resnet110_cifar": RecipeRow(
        recipe=_cifar(epochs=164, nesterov=False, warmup_epochs=1, warmup_lr=0.01),
        images="CIFAR",
        source="He et al. 2015, arXiv:1512.03385, section 4.2, for 110 layers",
        notes="The paper holds 0.01 until the training error is below 80 % (about 400 steps), here it rises from 0.01 "
        "within an epoch of 390 steps.",
    ),
    "preresnet_cifar": RecipeRow(
        recipe=_cifar(epochs=200, step_at=(0.405, 0.61)),
        images="CIFAR",
        source=f"He et al. 2016, arXiv:1603.05027, with its code (KaimingHe/resnet-1k-layers) on {TORCH}: divided by "
        "10 at epochs 81 and 122 of 200",
        notes="Batches of 64 in the code's own command for 1001 layers. The appendix was not at hand.",
    ),
    "wide_resnet_cifar": RecipeRow(
        recipe=_cifar(epochs=200, weight_decay=5e-4, step_at=(0.3, 0.6, 0.8), step_factor=0.2, border="reflect"),
        images="CIFAR",
        source="Zagoruyko and Komodakis 2016, arXiv:1605.07146, with scripts/train_cifar.sh: times 0.2 at epochs 60, "
        "120 and 160",
        notes="Images are normalised by mean and deviation, as from the paper's fourth version on (whitened before).",
    ),
    "densenet_cifar": RecipeRow(
        recipe=_cifar(epochs=300, batch_size=64),
        images="CIFAR",
        source="Huang et al. 2016, arXiv:1608.06993, section 4.2: divided by 10 at half and three quarters",
    ),
    "resnext_cifar": RecipeRow(
        recipe=_cifar(epochs=300, weight_decay=5e-4),
        images="CIFAR",
        source="Xie et al. 2016, arXiv:1611.05431, appendix A: divided by 10 at epochs 150 and 225",
        notes=f"Nesterov momentum as in {TORCH}, which its code builds on.",
    ),
    "fabric_cifar": RecipeRow(
        recipe=_cifar(epochs=120, batch_size=64, weight_decay=5e-4, step_at=(0.5, 2 / 3), border="background"),
        images="CIFAR",
        source="Singh 2018, released script of Residual Neural Fabrics: 0.1, 0.01 from epoch 60, 0.001 from epoch 80",
        notes="The script makes its optimizer anew at each step, which drops the momentum; and it seems to report the "
        "best epoch on test images. Here it is the last.",
    ),
    "modern_cifar": RecipeRow(
        recipe=_cifar(
            epochs=200,
            weight_decay=5e-4,
            warmup_epochs=5,
            schedule="cosine",
            step_at=(),
            decay_all=False,
            border="background",
            label_smoothing=0.1,
            augment="trivial",
            erase=0.1,
            mixup=0.2,
            cutmix=1.0,
            ema=0.999,
        ),
        images="CIFAR",
        source=f"ours, for comparisons: {MODERN}, at the scale of 32 px",
        notes="One recipe for all nets, best for none.",
    ),
    "few_small": RecipeRow(
        recipe=Recipe(
            epochs=80,
            batch_size=32,
            lr=0.05,
            weight_decay=1e-3,
            warmup_epochs=3,
            max_shift=2,
            flip=True,
            label_smoothing=0.1,
        ),
        images="fewer than 5,000 small images",
        source="ours, chosen on 450 garments of Fashion-MNIST (docs/benchmark.md)",
        notes="A thousand steps with 450 images. Strong augmentation and an average of the weights need more.",
    ),
    "resnet_imagenet": RecipeRow(
        recipe=_imagenet(epochs=90, step_at=(1 / 3, 2 / 3), colour=0.4, lighting=0.1),
        images="ImageNet",
        source=f"{TORCH}, which later papers train with: divided by 10 every 30 epochs",
        notes="He et al. 2015 divide where the error stops falling, and scale the short side to 256 to 480 px "
        "(short_sides).",
    ),
    "densenet_imagenet": RecipeRow(
        recipe=_imagenet(epochs=90, step_at=(1 / 3, 2 / 3), colour=0.4, lighting=0.1),
        images="ImageNet",
        source="Huang et al. 2016, arXiv:1608.06993, section 4.2: the recipe of fb.resnet.torch",
    ),
    "resnext_imagenet": RecipeRow(
        recipe=_imagenet(epochs=100, step_at=(0.3, 0.6, 0.9), colour=0.4, lighting=0.1),
        images="ImageNet",
        source="Xie et al. 2016, arXiv:1611.05431, section 4: divided by 10 three times",
        notes="The paper does not say when; the epochs are the default of its code's options.",
    ),
    "fishnet_imagenet": RecipeRow(
        recipe=_imagenet(epochs=100, nesterov=False, step_at=(0.3, 0.6, 0.9), lighting=0.1),
        images="ImageNet",
        source="Sun et al. 2018, arXiv:1901.03495, with its repository: divided by 10 every 30 epochs",
    ),
    "vgg_imagenet": RecipeRow(
        recipe=_imagenet(
            epochs=74,
            lr=0.01,
            weight_decay=5e-4,
            nesterov=False,
            step_at=(0.25, 0.5, 0.75),
            decay_all=False,
            short_sides=(256, 256),
            lighting=0.1,
        ),
        images="ImageNet",
        source="Simonyan and Zisserman 2014, arXiv:1409.1556, section 3.1: 370,000 steps, divided by 10 three times",
        notes="Dropout of 0.5 is the net's (drop_rate=0.5). The paper divides where the validation error stops falling "
        "and does not say when that was: here at each quarter. Its nets B to E start from the first four convolutions "
        "and the wide layers of a trained A, or, it adds, from a random start after Glorot and Bengio 2010; here from "
        "the zoo's. Nets that were trained at many scales have short_sides=(256, 512). Its tests are dense.",
    ),
    "googlenet_imagenet": RecipeRow(
        recipe=_imagenet(
            epochs=250,
            batch_size=32,
            lr=0.01,
            weight_decay=2e-4,
            nesterov=False,
            step_at=tuple(8 * i / 250 for i in range(1, 32)),
            step_factor=0.96,
            decay_all=False,
        ),
        images="ImageNet",
        source="Szegedy et al. 2014, arXiv:1409.4842, section 6: momentum 0.9, 4 % less every 8 epochs, crops; first "
        "rate, weight decay, length and batch size are those of Caffe's replication (bvlc_googlenet/solver.prototxt, "
        "whose 320,000 steps are these 8 epochs in batches of 32)",
        notes="Auxiliary classifiers are the net's (auxiliary=True), and their losses weigh 0.3; so is dropout "
        "(drop_rate=0.4). The paper averages weights (Polyak), distorts colours and resizes by a random interpolation, "
        "and gives no numbers of these: they are left out. The replication has twice the rate on biases.",
    ),
    "modern_imagenet": RecipeRow(
        recipe=_imagenet(
            epochs=100,
            batch_size=1024,
            lr=0.5,
            weight_decay=2e-5,
            warmup_epochs=5,
            schedule="cosine",
            decay_all=False,
            label_smoothing=0.1,
            augment="trivial",
            erase=0.1,
            mixup=0.2,
            cutmix=1.0,
            image_size=224,
        ),
        images="ImageNet",
        source=f"ours, for comparisons: {MODERN}, 100 epochs where that has 600",
        notes="No average of the weights, no smaller training crops.",
    ),
    "few_pictures": RecipeRow(
        recipe=Recipe(
            epochs=80,
            batch_size=32,
            lr=0.05,
            weight_decay=1e-3,
            warmup_epochs=3,
            flip=True,
            label_smoothing=0.1,
            crop_scale=0.35,
            image_size=160,
        ),
        images="fewer than 5,000 pictures",
        source="ours: few_small with crops, at 160 px; not measured on pictures",
        notes="Trained weights help more than any recipe: name a net with a tag, lr=0.01.",
    ),
}


def recipe_row(name: str) -> RecipeRow:
    """Return a named recipe.

    Raises:
        ValueError: If the recipe does not exist; the message offers close names, or lists all.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"choose from {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}: {hint}")
    return RECIPES[name]


def recipe_name(recipe: Recipe) -> str:
    """Return the name of a recipe; an empty text for a recipe without a row."""
    return next((name for name, row in RECIPES.items() if row.recipe == recipe), "")
