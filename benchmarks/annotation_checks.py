"""What do the checks of a large COCO file cost, beside parsing it, and beside libraries that validate?

    python benchmarks/annotation_checks.py                  # 118 000 images, 860 000 annotations, as COCO train2017
    python benchmarks/annotation_checks.py --no-masks       # the same without masks
    pip install msgspec pydantic fastjsonschema             # to have them compared; those that are missing are left out

Every way reads the same file in a process of its own. Processor time counts, so that other work on the machine disturbs little; memory is
by how much the process has grown at its peak. The libraries stop at the first fault of a file or entry; ours reports all.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUM_IMAGES, NUM_ANNOTATIONS = 118_000, 860_000


def write_file(path: Path, *, masks: bool, num_images: int, num_annotations: int) -> None:
    """A file as large as COCO's, of random objects."""
    rng = random.Random(0)
    url = "http://images.cocodataset.org/train2017/"
    with path.open("w") as file:
        file.write('{"info": {}, "categories": ' + json.dumps([{"id": i + 1, "name": f"class {i}"} for i in range(80)]) + ', "images": [')
        for i in range(num_images):
            image = {"id": 5 * i + 9, "file_name": f"{i}.jpg", "height": 480, "width": 640, "coco_url": f"{url}{i}.jpg", "license": 3}
            file.write(", " * bool(i) + json.dumps(image))
        file.write('], "annotations": [')
        for i in range(num_annotations):
            file.write(", " * bool(i) + json.dumps(_annotation(rng, i, num_images, masks)))
        file.write("]}")


def _annotation(rng: random.Random, number: int, num_images: int, masks: bool) -> dict[str, Any]:
    x, y, width, height = (round(rng.uniform(low, high), 2) for low, high in ((0, 480), (0, 380), (2, 150), (2, 100)))
    made: dict[str, Any] = {"id": 900_000 + number, "image_id": 5 * rng.randrange(num_images) + 9, "category_id": rng.randrange(1, 81)}
    made |= {"bbox": [x, y, width, height], "area": round(0.7 * width * height, 4), "iscrowd": 0}
    if masks:
        made["segmentation"] = [
            [round(v, 2) for _ in range(rng.randrange(8, 36)) for v in (x + rng.random() * width, y + rng.random() * height)]
        ]
    return made


def bare(path: str) -> int:
    with open(path) as file:
        return len(json.load(file)["annotations"])


def ours(path: str) -> int:
    """All fields, ids, references and boxes; the images are not looked for."""
    from detkit.data.checks.annotations import open_annotations
    from detkit.data.checks.boxes import find_box_faults

    opened = open_annotations(path)
    assert not opened.findings.faults and not find_box_faults(opened.content, opened.findings)
    return len(opened.content["annotations"])


def ours_for_masks(path: str) -> int:
    """The same for a model that learns masks."""
    from detkit.data.checks.annotations import open_annotations
    from detkit.data.checks.masks import find_mask_faults

    count = ours(path)
    opened = open_annotations(path)
    assert not find_mask_faults(opened.content, opened.findings, may_lack=True)
    return count


def detectron2_loader(path: str) -> int:
    """What it makes of the file, to compare: it checks that annotation ids are not repeated."""
    from detectron2.data.datasets import load_coco_json

    return sum(len(record["annotations"]) for record in load_coco_json(path, "", None))


#: of the entries that are validated, as Python types, and the defaults of those that may be missing
FIELDS: dict[str, dict[str, Any]] = {
    "images": {"id": int | str, "file_name": str, "width": int, "height": int},
    "annotations": {
        "id": int | str,
        "image_id": int | str,
        "category_id": int | str,
        "bbox": tuple[float, float, float, float],
        "area": float | None,
        "iscrowd": int | None,
        "segmentation": list[list[float]] | dict | None,
    },
}


def with_msgspec(path: str) -> int:
    import msgspec

    entries = {
        name: msgspec.defstruct(name, [(key, kind, *_default(kind)) for key, kind in fields.items()]) for name, fields in FIELDS.items()
    }
    whole = msgspec.defstruct("File", [(name, list[entry]) for name, entry in entries.items()])  # type: ignore[valid-type]
    with open(path, "rb") as file:
        return len(msgspec.json.decode(file.read(), type=whole).annotations)


def with_pydantic(path: str) -> int:
    import pydantic

    entries = {
        name: pydantic.create_model(
            name, **{key: (kind, *_default(kind)) if _default(kind) else (kind, ...) for key, kind in fields.items()}
        )
        for name, fields in FIELDS.items()
    }
    whole = pydantic.create_model("File", **{name: (list[entry], ...) for name, entry in entries.items()})  # type: ignore[valid-type]
    with open(path, "rb") as file:
        return len(whole.model_validate_json(file.read()).annotations)


def _default(kind: Any) -> tuple[None, ...]:
    return (None,) if type(None) in getattr(kind, "__args__", ()) else ()


def with_fastjsonschema(path: str) -> int:
    import fastjsonschema

    number, name = {"type": "number"}, {"type": ["integer", "string"]}
    box = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
    fields = {"id": name, "image_id": name, "category_id": name, "bbox": box, "area": number, "iscrowd": {"enum": [0, 1]}}
    image = {"id": name, "file_name": {"type": "string"}, "width": {"type": "integer"}, "height": {"type": "integer"}}
    entries = {"images": image, "annotations": fields}
    schema = {
        "type": "object",
        "properties": {
            key: {"type": "array", "items": {"type": "object", "required": list(value), "properties": value}}
            for key, value in entries.items()
        },
    }
    validate = fastjsonschema.compile(schema)
    with open(path) as file:
        return len(validate(json.load(file))["annotations"])


WAYS: dict[str, Callable[[str], int]] = {
    "json.load": bare,
    "ours": ours,
    "ours, for masks": ours_for_masks,
    "Detectron2's loader, for comparison": detectron2_loader,
    "msgspec": with_msgspec,
    "pydantic": with_pydantic,
    "json.load and fastjsonschema": with_fastjsonschema,
}


def measure(way: str, path: str) -> None:
    """Prints seconds and MiB, as json; imports do not count."""
    if way.startswith(("ours", "Detectron2")):
        import detkit.data  # noqa: F401
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    count = WAYS[way](path)
    seconds = time.process_time() - start
    print(json.dumps({"count": count, "seconds": seconds, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-masks", action="store_true")
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS)
    parser.add_argument("--rounds", type=int, default=3, help="the least of as many counts")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "annotations.json")
        write_file(path, masks=not args.no_masks, num_images=args.images, num_annotations=args.annotations)
        print(f"{args.images} images, {args.annotations} annotations, {path.stat().st_size / 2**20:.0f} MiB\n")
        print(f"{'':40}{'seconds':>10}{'of json.load':>14}{'MiB':>8}")
        parsing = 0.0
        for way in WAYS:
            done = [_in_a_process(way, path) for _ in range(args.rounds)]
            if None in done:
                print(f"{way:40}{'is not installed':>32}")
                continue
            best = min((each for each in done if each), key=lambda each: each["seconds"])
            parsing = parsing or best["seconds"]
            print(f"{way:40}{best['seconds']:10.1f}{best['seconds'] / parsing:14.2f}{best['mib']:8.0f}")


def _in_a_process(way: str, path: Path) -> dict[str, float] | None:
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, "--measure", way, str(path)], capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr:
        return None
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
