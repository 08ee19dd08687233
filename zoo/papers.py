"""Where to find what the papers describe: architectures, units and analyses, by the text that they come from.

A table of facts, below the command line and the documentation that present it. Tests look up every name in it.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "model": "a net of the zoo, or several",
    "override": "nets of the zoo with some arguments",
    "part": "elsewhere in the package: a unit, an analysis, the benchmark",
    "installed": "an installed library has it; nets of timm's pass through zoo.create_model",
    "planned": "not built yet",
    "cited": "only mentioned, and no part of the package",
}
"""What the answer is, and how a reader shall take it."""


@dataclass(frozen=True)
class System:
    """Something that a text names.

    Attributes:
        name: As the text calls it.
        source: The paper that it is from.
        kind: A key of ``KINDS``.
        models: Names for ``zoo.create_model``.
        overrides: Its arguments, the same for all of them.
        where: Names in Python, or files of the repository.
        note: What else is to be said.
    """

    name: str
    source: str
    kind: str
    models: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    note: str = ""

    def found(self, code: str = "{}") -> str:
        """The answer in one line; ``code`` formats names of models and of Python."""
        arguments = "".join(f" + {key}={value}" for key, value in self.overrides.items())
        names = [code.format(name + arguments) for name in self.models] + [code.format(name) for name in self.where]
        return "; ".join(part for part in (", ".join(names), self.note) if part)


SAXENA = "Saxena & Verbeek 2016, arXiv:1606.02492"
SINGH = "Singh 2018, Residual Neural Fabrics part 2"
FOURURE = "Fourure et al. 2017, arXiv:1707.07958"
SUN = "Sun et al. 2018, arXiv:1901.03495"
HU = "Hu et al. 2018, arXiv:1709.01507"
HE2015 = "He et al. 2015, arXiv:1512.03385"
HE2016 = "He et al. 2016, arXiv:1603.05027"
VEIT = "Veit et al. 2016, arXiv:1605.06431"
WU = "Wu et al. 2016, arXiv:1611.10080"
ZAGORUYKO = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"
IOFFE = "Ioffe & Szegedy 2015, arXiv:1502.03167"
REN = "Ren et al. 2015, arXiv:1506.01497"
GIRSHICK = "Girshick 2015, arXiv:1504.08083"
HE2017 = "He et al. 2017, arXiv:1703.06870"
DAI = "Dai et al. 2017, arXiv:1703.06211"
LONG = "Long et al. 2015, arXiv:1411.4038"
RONNEBERGER = "Ronneberger et al. 2015, arXiv:1505.04597"
YU = "Yu & Koltun 2016, arXiv:1511.07122"
SIMONYAN = "Simonyan & Zisserman 2014, arXiv:1409.1556"
SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842"
KRIZHEVSKY = "Krizhevsky et al. 2012, NeurIPS 2012"
ZEILER = "Zeiler & Fergus 2014, arXiv:1311.2901"
CHATFIELD = "Chatfield et al. 2014, arXiv:1405.3531"
BENGIO = "Bengio et al. 1994, doi:10.1109/72.279181"
DUMOULIN = "Dumoulin & Visin 2016, arXiv:1603.07285"

THREE = "fabric_a_l3_s6_c128"
ORDERINGS = ("norm_after_add", "act_before_add", "act_only_pre")

SYSTEMS: dict[str, tuple[System, ...]] = {
    "Neural fabrics": (
        System(
            "Convolutional Neural Fabric",
            SAXENA,
            "model",
            ("fabric_a_l8_s6_c128_cifar", "fabric_a_l16_s6_c64_sparse_cifar"),
            where=("zoo.topology",),
        ),
        System("fabric of type A", SINGH, "model", ("fabric_a_l8_s6_c128_cifar", "fabric_a_l9_s6_c128_cifar")),
        System("fabric of type D", SINGH, "model", ("fabric_d_l8_s6_c128_cifar",)),
        System(
            "fabric of type B", SINGH, "model", ("fabric_b_l8_s6_c128_cifar",), note="only named there: our reading"
        ),
        System("fabric of type C", SINGH, "cited", note="belongs to part 1, which was not to be found"),
        System("channel-doubling fabric", SINGH, "model", ("fabric_d_l8_s6_c32x2_voc",)),
        System(
            "sparse channel connectivity",
            SAXENA,
            "model",
            ("fabric_a_l16_s6_c64_sparse_cifar",),
            where=("zoo.layers.BandConv2d",),
        ),
        System(
            "convolution unit (figure 9a)",
            SINGH,
            "model",
            ("fabric_a_l9_s6_c128_cifar",),
            where=("zoo.models.fabric.PlainEdge",),
        ),
        System(
            "post-activation bottleneck unit (figure 9b)",
            SINGH,
            "model",
            (f"{THREE}_post_cifar", "fabric_a_l9_s6_c128_post_cifar"),
            where=("zoo.models.fabric.BottleneckEdge",),
        ),
        System(
            "pre-activation bottleneck unit (figure 9c)",
            SINGH,
            "model",
            (f"{THREE}_pre_cifar", "fabric_a_l9_s6_c128_pre_cifar"),
            where=("zoo.models.fabric.BottleneckEdge",),
        ),
        System("shared pre-activation (figure 9d)", SINGH, "model", (f"{THREE}_preshared_cifar",)),
        System(
            "parameters of a bottleneck and of a convolution, 8 8/17 to 1",
            SINGH,
            "part",
            where=("zoo.complexity.count",),
            note="counts the nets of both units",
        ),
        System("equations of a node", SINGH, "part", where=("zoo.grid.Cell",)),
        System(
            "stride down, interpolation up",
            SINGH,
            "override",
            (f"{THREE}_post_cifar",),
            {"up": "nearest"},
            ("zoo.layers.Resize",),
            "also bilinear, the default, and zero, the way of the first paper",
        ),
        System("skips without a gate", SINGH, "model", (f"{THREE}_post_cifar", f"{THREE}_pre_cifar")),
        System("constant scaling", SINGH, "model", (f"{THREE}_post_scaled_cifar", f"{THREE}_pre_scaled_cifar")),
        System(
            "total dropout",
            SINGH,
            "model",
            (f"{THREE}_post_dropout_cifar", f"{THREE}_pre_dropout_cifar"),
            where=("zoo.layers.KeepAll",),
        ),
        System("1x1 gate", SINGH, "model", (f"{THREE}_post_gated_cifar", f"{THREE}_pre_gated_cifar")),
        System("skip from the fourth layer before", SINGH, "cited", note="tried there without an improvement"),
        System("GridNet", FOURURE, "model", ("gridnet_l6_s5_c16x2",), note="the grid; its units are the fabric's"),
        System("FRRN A and B", "Pohlen et al. 2017, arXiv:1611.08323", "model", ("frrn_a", "frrn_b")),
        System(
            "hypercolumns",
            "Hariharan et al. 2015, arXiv:1411.5752",
            "override",
            ("fabric_d_l8_s6_c32x2_voc",),
            {"head": "hypercolumn"},
            note="our reading of the report's forward connections",
        ),
        System("PixelNet", "Bansal et al. 2017, arXiv:1702.06506", "cited", note="a way to sample pixels in training"),
        System(
            "SegNet", "Badrinarayanan et al. 2015, arXiv:1505.07293", "installed", where=("pytorchcv.models.segnet",)
        ),
        System("FCN", LONG, "installed", where=("torchvision.models.segmentation.fcn_resnet50",)),
        System("DeconvNet", "Noh et al. 2015, arXiv:1505.04366", "cited", note="no installed library has it"),
        System("RefineNet", "Lin et al. 2017, arXiv:1611.06612", "cited", note="no installed library has it"),
        System(
            "Laplacian pyramid refinement (LRR)",
            "Ghiasi & Fowlkes 2016, arXiv:1605.02264",
            "cited",
            note="no installed library has it",
        ),
        System(
            "FC-DenseNet (Tiramisu)", "Jegou et al. 2017, arXiv:1611.09326", "cited", note="no installed library has it"
        ),
        System("CRF as RNN", "Zheng et al. 2015, arXiv:1502.03240", "cited", note="refines scores behind a net"),
        System("dense CRF", "Kraehenbuehl & Koltun 2011, arXiv:1210.5644", "cited", note="refines scores behind a net"),
        System(
            "DeepLab",
            "Chen et al. 2015, arXiv:1412.7062",
            "installed",
            where=("torchvision.models.segmentation.deeplabv3_resnet50",),
            note="version 3",
        ),
        System(
            "hybrid dilated convolution",
            "Wang et al. 2017, arXiv:1702.08502",
            "cited",
            note="no installed library has it",
        ),
        System(
            "He initialisation",
            "He et al. 2015, arXiv:1502.01852",
            "part",
            where=("zoo.backbone.Backbone.init_weights",),
        ),
        System("SGD with momentum", SINGH, "part", where=("zoo.results.recipe.Recipe", "zoo.bench.train.train")),
        System("Adam", "Kingma & Ba 2014, arXiv:1412.6980", "installed", where=("torch.optim.Adam",)),
        System(
            "memory and time of two implementations (table 3)",
            SINGH,
            "part",
            where=("benchmarks/fabric_speed.py", "benchmarks/speed.py"),
            note="against a plain transcription of the equations",
        ),
    ),
    "FishNet": (
        System("FishNet", SUN, "model", ("fishnet99", "fishnet150", "fishnet201")),
        System("FishNeXt", SUN, "model", ("fishnext150_4d",), note="our reading of one sentence"),
        System("up-sampling and refinement (UR) block", SUN, "part", where=("zoo.models.fishnet.Body",)),
        System("channel reduction", SUN, "part", where=("zoo.layers.ChannelSum",)),
        System("down-sampling and refinement (DR) block", SUN, "part", where=("zoo.models.fishnet.HeadStage",)),
        System(
            "isolated convolutions, direct paths of the gradient",
            SUN,
            "part",
            where=("zoo.analysis.paths.reached_directly",),
        ),
        System(
            "max-pooling down, nearest neighbour up",
            SUN,
            "part",
            where=("zoo.layers.max_pool_halving", "zoo.layers.upsample_like"),
        ),
        System(
            "squeeze-and-excitation bridge",
            SUN,
            "part",
            where=("zoo.models.fishnet.Bridge", "zoo.layers.SqueezeGate"),
        ),
        System("SE-ResNet", HU, "model", ("seresnet50", "seresnet101", "seresnet152", "seresnet20_projection_cifar")),
        System("SE-Inception", HU, "cited", note="no installed library has it"),
        System(
            "recursion of identity mappings",
            HE2016,
            "part",
            where=("zoo.analysis.paths.reached_directly",),
            note="whether the sum reaches the end without a weight on its way",
        ),
        System(
            "norm, activation, convolution",
            HE2016,
            "model",
            ("preresnet20_cifar", "preresnet50"),
            where=("zoo.layers.ORDERS",),
        ),
        System(
            "port to CIFAR, and the residual net that it starts from",
            "a review of Sun et al. 2018",
            "model",
            ("preresnet26_port_cifar", "fishnet58_cifar"),
            note="the residual net as there; the fish is ours",
        ),
        System("ImageNet recipe", SUN, "cited", note="the benchmark trains on small images"),
        System(
            "accuracy over parameters and multiply-adds (figure 4)",
            SUN,
            "part",
            where=("zoo.results.plot.plot_all",),
            note="zoo plot",
        ),
    ),
    "Residual networks": (
        System(
            "residual and plain nets, degradation",
            HE2015,
            "model",
            ("resnet20_cifar", "resnet56_cifar", "plain20_cifar", "plain56_cifar", "resnet34", "plain18", "plain34"),
        ),
        System("shortcut A: zeros", HE2015, "model", ("resnet20_cifar",), where=("zoo.layers.PadShortcut",)),
        System("shortcut A on an ImageNet net", HE2015, "override", ("resnet34",), {"shortcut": "pad"}),
        System("shortcut B: projections where needed", HE2015, "model", ("resnet50", "resnet20_projection_cifar")),
        System("shortcut C: projections everywhere", HE2015, "override", ("resnet34",), {"shortcut": "project_all"}),
        System(
            "basic and bottleneck blocks",
            HE2015,
            "model",
            ("resnet34", "resnet50", "resnet50_v1"),
            where=("zoo.layers.basic", "zoo.layers.bottleneck"),
        ),
        System("responses of the layers (figure 7)", HE2015, "planned", note="an analysis"),
        System("1202 layers, over-fitting", HE2015, "model", ("resnet1202_cifar",)),
        System("unravelled view, 2^(i - 1) paths into unit i", VEIT, "planned", note="an analysis"),
        System("lesion study: delete one unit", VEIT, "planned", note="an analysis"),
        System("lesion study: delete several units", VEIT, "planned", note="an analysis"),
        System("lengths of paths and their gradients", VEIT, "planned", note="an analysis"),
        System("training of the effective paths alone", VEIT, "planned", note="an analysis"),
        System("effective path, number of sub-networks", WU, "cited", note="an argument, without a measurement"),
        System(
            "virtual ensembles whose depth grows",
            "Littwin & Wolf 2016, arXiv:1611.02525",
            "cited",
            note="an argument, without a measurement",
        ),
        System("weight sharing as a regularisation", WU, "cited", note="an argument, without a measurement"),
        System("ResNet-38, models A and A2", WU, "model", ("wider_resnet38", "wider_resnet38_a2")),
        System(
            "ResNet-38 dilated for segmentation", WU, "override", ("wider_resnet38", "resnet50"), {"output_stride": 8}
        ),
        System(
            "Wide ResNet",
            ZAGORUYKO,
            "model",
            ("wide_resnet28_10_cifar", "wide_resnet16_8_cifar", "wide_resnet40_4_cifar", "wide_resnet50_2"),
        ),
    ),
    "Detection and segmentation": (
        System("batch norm with scale and shift", IOFFE, "installed", where=("torch.nn.BatchNorm2d",)),
        System(
            "Faster R-CNN",
            REN,
            "part",
            where=("zoo.detection_backbone",),
            note="torchvision's detector on the zoo's backbones",
        ),
        System(
            "region proposal network and its loss",
            REN,
            "installed",
            where=("torchvision.models.detection.rpn.RegionProposalNetwork", "torch.nn.functional.smooth_l1_loss"),
        ),
        System(
            "selective search",
            "Uijlings et al. 2013, doi:10.1007/s11263-013-0620-5",
            "cited",
            note="proposals by another program",
        ),
        System("RoIPool and its rounding", GIRSHICK, "installed", where=("torchvision.ops.RoIPool",)),
        System("RoIAlign", HE2017, "installed", where=("torchvision.ops.RoIAlign",)),
        System(
            "receptive field and memory of stacked convolutions",
            SIMONYAN,
            "planned",
            note="an analysis; the paper has the field of stacked 3x3s, a lecture the memory",
        ),
        System(
            "un-pooling: bed of nails, nearest neighbour, bilinear",
            DUMOULIN,
            "part",
            where=("zoo.layers.UPS", "zoo.layers.Resize"),
        ),
        System(
            "un-pooling: bicubic, transposed convolution",
            DUMOULIN,
            "installed",
            where=("torch.nn.Upsample", "torch.nn.ConvTranspose2d", "torch.nn.MaxUnpool2d"),
        ),
        System(
            "U-Net",
            RONNEBERGER,
            "part",
            where=("zoo.bench.tasks",),
            note="segmentation_models_pytorch's decoder on the zoo's backbones; pytorchcv has the net",
        ),
        System("receptive field of dilated convolutions", YU, "planned", note="an analysis"),
        System(
            "dilation in place of strides",
            YU,
            "override",
            ("resnet50", "fishnet99"),
            {"output_stride": 8},
        ),
        System("data augmentation", KRIZHEVSKY, "part", where=("zoo.bench.augment.shift_images",), note="shifts"),
        System("spatial transformer", "Jaderberg et al. 2015, arXiv:1506.02025", "planned", note="a front of a net"),
        System(
            "deformable convolution",
            DAI,
            "override",
            ("resnet101", "resnet50"),
            {"deform_stages": (4,)},
            ("torchvision.ops.DeformConv2d",),
        ),
        System("deformable RoI pooling", DAI, "planned", note="no installed library has it"),
        System(
            "R-FCN",
            "Dai et al. 2016, arXiv:1605.06409",
            "installed",
            where=("torchvision.ops.PSRoIPool",),
            note="its pooling alone",
        ),
    ),
    "A history of convolutional nets": (
        System("LeNet-5", "LeCun et al. 1998, doi:10.1109/5.726791", "model", ("lenet5_cifar",)),
        System(
            "AlexNet",
            KRIZHEVSKY,
            "model",
            ("alexnet",),
            note="in the form with one tower of Krizhevsky 2014, arXiv:1404.5997; the net of 2012 has two",
        ),
        System("VGG-M, F and S", CHATFIELD, "cited", note="no installed library has them"),
        System(
            "VGG configurations A, A-LRN, B, C, D and E",
            SIMONYAN,
            "model",
            ("vgg11", "vgg11_lrn", "vgg13", "vgg16_c", "vgg16", "vgg19"),
        ),
        System(
            "VGG with batch norm",
            SIMONYAN,
            "model",
            ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
            note="the paper is older than batch norm",
        ),
        System("VGG recipe", SIMONYAN, "cited", note="the benchmark trains on small images"),
        System("GoogLeNet with auxiliary classifiers", SZEGEDY, "model", ("googlenet", "googlenet_bn")),
        System(
            "naive inception, dimension reduction", SZEGEDY, "model", ("googlenet",), where=("zoo.complexity.count",)
        ),
        System(
            "Inception v2, v3, v4",
            "Szegedy et al. 2015 and 2016, arXiv:1512.00567, arXiv:1602.07261",
            "installed",
            ("inception_v3", "inception_v4", "inception_resnet_v2"),
            where=("pytorchcv.models.bninception",),
        ),
        System(
            "ResNet, identity layers as a thought experiment",
            HE2015,
            "model",
            ("resnet50", "resnet152", "plain56_cifar", "resnet56_cifar"),
        ),
        System("residual block of the quiz", HE2015, "installed", where=("torchvision.models.resnet.BasicBlock",)),
        System(
            "five orderings of a residual unit",
            HE2016,
            "model",
            (
                "resnet110_cifar",
                "preresnet110_cifar",
                *(f"resnet110_{order}_cifar" for order in ORDERINGS),
                "resnet164_cifar",
                "preresnet164_cifar",
                *(f"resnet164_{order}_cifar" for order in ORDERINGS),
            ),
            where=("zoo.layers.ORDERS",),
        ),
        System(
            "ResNeXt, cardinality",
            "Xie et al. 2017, arXiv:1611.05431",
            "model",
            ("resnext50_32x4d", "resnext101_32x4d", "resnext101_2x64d", "resnext101_64x4d", "resnext29_8x64d_cifar"),
        ),
        System(
            "ResNet-101 of width 100",
            "Xie et al. 2017, arXiv:1611.05431",
            "override",
            ("resnet101",),
            {"mid_widths": (100, 200, 400, 800)},
        ),
        System(
            "highway network",
            "Srivastava et al. 2015, arXiv:1507.06228",
            "model",
            ("highway11_cifar", "highway19_cifar", "highway32_cifar"),
        ),
        System(
            "DenseNet",
            "Huang et al. 2017, arXiv:1608.06993",
            "model",
            (
                "densenet121",
                "densenet161",
                "densenet169",
                "densenet201",
                "densenet264",
                "densenet40_k12_cifar",
                "densenet100_k12_bc_cifar",
            ),
        ),
        System("MobileNet v1", "Howard et al. 2017, arXiv:1704.04861", "installed", ("mobilenetv1_100",)),
        System("BagNet", "Brendel & Bethge 2019, arXiv:1904.00760", "model", ("bagnet9", "bagnet17", "bagnet33")),
        System(
            "texture and shape bias",
            "Geirhos et al. 2019, arXiv:1811.12231",
            "cited",
            note="needs its own images and trained nets",
        ),
        System("linear probes", "Zhang et al. 2017, arXiv:1611.09842", "planned", note="an analysis"),
        System(
            "activation maximisation",
            "Simonyan et al. 2014, arXiv:1312.6034",
            "planned",
            note="an analysis",
        ),
        System("patches that excite a unit most", ZEILER, "planned", note="an analysis"),
        System("ZFNet", ZEILER, "installed", where=("pytorchcv.models.zfnet",)),
        System(
            "transfer learning",
            "Yosinski et al. 2014, arXiv:1411.1792",
            "part",
            where=("zoo.backbone.Backbone.reset_classifier",),
            note="after pretrained=True or zoo.load_weights",
        ),
        System("R-CNN", "Girshick et al. 2014, arXiv:1311.2524", "cited", note="no installed library has it"),
        System(
            "Fast R-CNN",
            GIRSHICK,
            "installed",
            where=("torchvision.ops.RoIPool", "torchvision.models.detection.roi_heads.RoIHeads"),
            note="its parts",
        ),
        System("anchors", REN, "installed", where=("torchvision.models.detection.anchor_utils.AnchorGenerator",)),
        System("Mask R-CNN", HE2017, "installed", where=("torchvision.models.detection.MaskRCNN",)),
        System(
            "fully connected layers as convolutions",
            LONG,
            "part",
            where=("zoo.layers.WideHead",),
            note="any net scores every position with global_pool=''",
        ),
        System(
            "vanishing gradients as a product of Jacobians",
            BENGIO,
            "planned",
            note="an analysis; why GoogLeNet has auxiliary classifiers",
        ),
    ),
}
"""Everything that the texts name, by subject, in the order of the texts."""


def systems(filter: str = "") -> list[tuple[str, System]]:
    """Subjects and systems that match.

    Args:
        filter: A shell-style pattern (``*net``), or a part, of the subject, the name, the source, the kind, a model or
            a name in Python; upper and lower case are one.
    """
    pattern = (filter if any(c in filter for c in "*?[") else f"*{filter}*").lower()
    return [
        (subject, system)
        for subject, rows in SYSTEMS.items()
        for system in rows
        if any(
            fnmatch.fnmatchcase(text.lower(), pattern)
            for text in (subject, system.name, system.source, system.kind, *system.models, *system.where)
        )
    ]
